package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/netns"
)

// TCPRow is one line of /proc/net/tcp or tcp6.
type TCPRow struct {
	Lport, Rport uint16
	State        event.State
	// RecvQ counts the FIN as one; for LISTEN it is the length of the accept queue.
	RecvQ, SendQ uint32
	Inode        uint64
}

// TCPTable returns the kernel's table of a network namespace ("" our own), sockets in
// accept queues included. It needs no tool, so it works in VM guests as well. The kernel
// gives the table in pieces: where others make sockets meanwhile one can be missing.
func TCPTable(tb testing.TB, netnsPath string) []TCPRow {
	tb.Helper()
	var rows []TCPRow
	seen := map[string]bool{} // and one can come twice
	read := func() error {
		for _, name := range []string{"tcp", "tcp6"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + name)
			if errors.Is(err, fs.ErrNotExist) && name == "tcp6" {
				continue
			}
			if err != nil {
				return err
			}
			for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
				if i == 0 {
					continue // headings
				}
				row, err := parseTCPRow(line)
				if fields := strings.Fields(line); err == nil {
					key := fields[1] + " " + fields[2] + " " + fields[9]
					if seen[key] {
						continue
					}
					seen[key] = true
				}
				if err != nil {
					return fmt.Errorf("parse %q: %w", line, err)
				}
				rows = append(rows, row)
			}
		}
		return nil
	}
	err := error(nil)
	if netnsPath == "" {
		err = read()
	} else {
		err = netns.Do(netnsPath, read)
	}
	if err != nil {
		tb.Fatalf("read socket table: %v", err)
	}
	return rows
}

// parseTCPRow reads "sl local remote st tx:rx tr:when retrnsmt uid timeout inode ...".
func parseTCPRow(line string) (row TCPRow, err error) {
	f := strings.Fields(line)
	if len(f) < 10 {
		return row, fmt.Errorf("%d fields, want 10 at least", len(f))
	}
	hex := func(s string, bits int) uint64 {
		v, parseErr := strconv.ParseUint(s, 16, bits)
		err = errors.Join(err, parseErr)
		return v
	}
	port := func(s string) uint16 { return uint16(hex(s[strings.LastIndexByte(s, ':')+1:], 16)) }
	row.Lport, row.Rport = port(f[1]), port(f[2])
	row.State = event.State(hex(f[3], 8))
	tx, rx, _ := strings.Cut(f[4], ":")
	row.SendQ, row.RecvQ = uint32(hex(tx, 32)), uint32(hex(rx, 32))
	inode, inodeErr := strconv.ParseUint(f[9], 10, 64)
	row.Inode = inode
	return row, errors.Join(err, inodeErr)
}
