package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// program is one BPF program that a process holds, and what the kernel counted of it.
type program struct {
	name string
	// hook is the tracepoint, as far as the kernel says it.
	hook string
	// runs and ns are counted only while somebody asks for it, see countRuns.
	runs, ns uint64
}

// countRuns lets the kernel count runs and their time until the result is closed. That costs
// something itself. It ends with this process at the latest.
func countRuns() (io.Closer, error) {
	c, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return nil, fmt.Errorf("count runs of programs: %w", err)
	}
	return c, nil
}

// programsOf reads the programs of a process, by id.
func programsOf(pid int) (map[uint32]program, error) {
	dir := fmt.Sprintf("/proc/%d/fdinfo", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read descriptors: %w", err)
	}
	found, hooks := map[uint32]program{}, map[uint32]string{}
	for _, entry := range entries {
		info, err := readFdinfo(filepath.Join(dir, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // closed meanwhile
		}
		if err != nil {
			return nil, err
		}
		id, ok := info.number("prog_id")
		if !ok {
			continue
		}
		for _, key := range []string{"tp_name", "target_name"} {
			if info[key] != "" {
				hooks[uint32(id)] = info[key]
			}
		}
		if ns, ok := info.number("run_time_ns"); ok {
			runs, _ := info.number("run_cnt")
			found[uint32(id)] = program{runs: runs, ns: ns}
		}
	}
	for id, p := range found {
		p.hook, p.name = hooks[id], programName(id)
		found[id] = p
	}
	return found, nil
}

// fdinfo is /proc/PID/fdinfo/FD.
type fdinfo map[string]string

func readFdinfo(path string) (fdinfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return parseFdinfo(f)
}

func parseFdinfo(r io.Reader) (fdinfo, error) {
	info := fdinfo{}
	scanner := bufio.NewScanner(r)
	for scanner.Scan() {
		if key, value, found := strings.Cut(scanner.Text(), ":"); found {
			info[key] = strings.TrimSpace(value)
		}
	}
	return info, scanner.Err()
}

func (i fdinfo) number(key string) (uint64, bool) {
	n, err := strconv.ParseUint(i[key], 10, 64)
	return n, err == nil
}

// programName asks the kernel; the number is a name, too.
func programName(id uint32) string {
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
	if err == nil {
		defer func() { _ = p.Close() }()
		if info, err := p.Info(); err == nil && info.Name != "" {
			return info.Name
		}
	}
	return fmt.Sprintf("program %d", id)
}
