// Package proctest shows a live process to tests the way the agent sees it: its executable
// mappings with their files, and its memory.
package proctest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/procfs"

	"github.com/tcpwaitd/tcpwaitd/internal/object"
)

// Process describes a running process. Its files are open until the test ends.
func Process(tb testing.TB, pid int) *object.Process {
	tb.Helper()
	proc, err := procfs.NewProc(pid)
	if err != nil {
		tb.Fatal(err)
	}
	maps, err := proc.ProcMaps()
	if err != nil {
		tb.Fatal(err)
	}
	p := &object.Process{Pid: uint32(pid), Memory: object.OpenMemory(uint32(pid))}
	objects := map[string]*object.Object{}
	for _, m := range maps {
		if !m.Perms.Execute {
			continue
		}
		v := object.VMA{
			Start: uint64(m.StartAddr), End: uint64(m.EndAddr), Offset: uint64(m.Offset),
		}
		if m.Inode != 0 {
			v.Key = object.Key{Ino: m.Inode, Dev: uint32(m.Dev)}
			if objects[m.Pathname] == nil {
				objects[m.Pathname] = open(tb, pid, m, v.Key)
			}
		}
		p.Maps = append(p.Maps, object.Mapped{VMA: v, Object: objects[m.Pathname]})
	}
	return p
}

func open(tb testing.TB, pid int, m *procfs.ProcMap, key object.Key) *object.Object {
	tb.Helper()
	f, err := os.Open(filepath.Join("/proc", fmt.Sprint(pid), "root", m.Pathname))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = f.Close() })
	return &object.Object{Key: key, Path: m.Pathname, File: f}
}
