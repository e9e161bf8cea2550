package pipeline

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/prometheus/procfs"

	"github.com/tcpwaitd/tcpwaitd/internal/netns"
	"github.com/tcpwaitd/tcpwaitd/internal/ports"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// portSpace is what a network namespace has of its own: settings and counters.
type portSpace struct {
	// sysctls are nil and settings empty where they could not be read.
	sysctls            map[string]string
	settings           ports.Settings
	counters           counters
	timeWait, finWait2 int
}

// portSpaces reads them in each namespace, or in those chosen. What cannot be entered or read
// is left out; the snapshot tells of it.
func (e *Engine) portSpaces(chosen []uint32) map[uint32]portSpace {
	all := map[uint32]portSpace{}
	list, err := netns.List(e.cfg.Proc)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		e.log.Warn("network namespaces cannot be listed: their settings are not known", "error", err)
	}
	for _, ns := range list {
		if len(chosen) > 0 && !slices.Contains(chosen, ns.Inode) {
			continue
		}
		var s portSpace
		err := ns.Do(func() (err error) {
			s, err = readPortSpace(e.cfg.Proc)
			return err
		})
		switch {
		case errors.Is(err, netns.ErrGone):
			continue
		case err != nil:
			e.log.Warn("settings of a network namespace are not known", "netns", ns.Inode, "error", err)
		}
		all[ns.Inode] = s
	}
	return all
}

// readPortSpace reads the namespace of the calling thread.
func readPortSpace(proc string) (portSpace, error) {
	s := portSpace{sysctls: map[string]string{}}
	for _, name := range ports.Sysctls() {
		text, err := os.ReadFile(filepath.Join(proc, "sys", strings.ReplaceAll(name, ".", "/")))
		if errors.Is(err, fs.ErrNotExist) {
			continue // older kernels have fewer
		}
		if err != nil {
			return portSpace{}, fmt.Errorf("read %s: %w", name, err)
		}
		s.sysctls[name] = strings.TrimSpace(string(text))
	}
	var err, failed error
	s.settings, err = ports.ParseSettings(s.sysctls)
	s.counters, failed = readCounters(proc)
	return s, errors.Join(err, failed)
}

func settingsOf(spaces map[uint32]portSpace) map[uint32]ports.Settings {
	all := make(map[uint32]ports.Settings, len(spaces))
	for netns, s := range spaces {
		if s.settings.Known() {
			all[netns] = s.settings
		}
	}
	return all
}

func sortedKeys[V any](m map[uint32]V) []uint32 { return slices.Sorted(maps.Keys(m)) }

// ownNetns is 0 where it cannot be found out.
func (e *Engine) ownNetns() uint32 {
	inode, _ := netns.Current()
	return inode
}

// The counters of TcpExt that tell of TIME_WAIT.
const (
	counterTimeWait = iota
	counterRecycled
	counterOverflow
	counterPAWSActive
	counterPAWSEstab
	numCounters
)

// counters are nil where the kernel has none.
type counters [numCounters]*record.PortCounter

// readCounters reads those of the calling thread's namespace: /proc/net is that of the main
// thread.
func readCounters(proc string) (counters, error) {
	var c counters
	link, err := os.Readlink(filepath.Join(proc, "thread-self"))
	if err != nil {
		return c, fmt.Errorf("find own thread: %w", err)
	}
	var pid, tid int
	if _, err := fmt.Sscanf(link, "%d/task/%d", &pid, &tid); err != nil {
		return c, fmt.Errorf("find own thread in %q: %w", link, err)
	}
	tree, err := procfs.NewFS(proc)
	if err != nil {
		return c, fmt.Errorf("open procfs: %w", err)
	}
	thread, err := tree.Thread(pid, tid)
	if err != nil {
		return c, fmt.Errorf("open own thread: %w", err)
	}
	stat, err := thread.Netstat()
	if err != nil {
		return c, fmt.Errorf("read netstat: %w", err)
	}
	for i, v := range []*float64{stat.TW, stat.TWRecycled, stat.TCPTimeWaitOverflow, stat.PAWSActive, stat.PAWSEstab} {
		if v != nil {
			c[i] = &record.PortCounter{Total: uint64(*v)}
		}
	}
	return c, nil
}

// since adds how much of the totals came after the ones before; without these, nothing did.
func (c counters) since(before counters) counters {
	for i := range c {
		if c[i] == nil {
			continue
		}
		now := *c[i]
		if b := before[i]; b != nil && b.Total <= now.Total {
			now.Observed = now.Total - b.Total
		}
		c[i] = &now
	}
	return c
}

// any: something happened while watching.
func (c counters) any() bool {
	return slices.ContainsFunc(c[:], func(x *record.PortCounter) bool { return cmp.Or(x, &record.PortCounter{}).Observed > 0 })
}

func (c counters) record() record.PortCounters {
	return record.PortCounters{
		TimeWait: c[counterTimeWait], Recycled: c[counterRecycled], Overflow: c[counterOverflow],
		PAWSActive: c[counterPAWSActive], PAWSEstab: c[counterPAWSEstab],
	}
}
