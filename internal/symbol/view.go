package symbol

import (
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
)

// processKey identifies a process.
type processKey struct {
	pid   uint32
	start event.BootTime
}

// source is where a debug file can come from.
type source uint8

const (
	// fromProcess: below the root of the process.
	fromProcess source = iota
	// fromHost: by its build id, from among our own root's debug files.
	fromHost
	// fromServer: from debuginfod.
	fromServer
)

// debugKey: what a debug file says counts for an object as seen below one root; root is
// zero for other sources.
type debugKey struct {
	image imageKey
	from  source
	root  rootKey
}

// rootOf tells the root of a process, also when it is gone meanwhile; zero for one that
// was gone before it was first asked for.
func (s *Symbolizer) rootOf(p *object.Process) rootKey {
	if p == nil {
		return rootKey{}
	}
	key := processKey{pid: p.Pid, start: p.Start}
	s.mu.Lock()
	known, ok := s.processes.get(key)
	s.mu.Unlock()
	if ok {
		return known
	}
	if r, err := s.proc.rootOf(p); err == nil {
		known = r.key
		r.close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.processes.put(key, known, 1)
	return known
}

// guardOf returns the guard of what is below a root.
func (s *Symbolizer) guardOf(key rootKey) *guard {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.guards.get(key)
	if !ok {
		g = &guard{}
		s.guards.put(key, g, 1)
	}
	return g
}

// debugFor returns the debug information of an image beyond its own, nil if there is none.
// It looks below the root of the process, which is known as view; for a file of the same
// build among our own; and on the servers. final: asking again would give the same.
func (s *Symbolizer) debugFor(m *image, p *object.Process, view rootKey) (info *debugInfo, final bool) {
	final = true
	if view != (rootKey{}) {
		info, final = s.searched(m, debugKey{m.key, fromProcess, view}, m.path, func() (*root, error) {
			return s.proc.rootOf(p)
		})
	}
	if info == nil {
		info = s.hostDebug(m)
	}
	if info == nil && s.remote != nil {
		info, _ = s.remembered(debugKey{m.key, fromServer, rootKey{}}, func() (*debugInfo, bool) {
			return s.fetched(m), true
		})
	}
	return info, final || info != nil
}

// hostDebug returns our own debug information for an image. Only names by build id count:
// other paths are the process's, and lead to something else here.
func (s *Symbolizer) hostDebug(m *image) *debugInfo {
	info, _ := s.searched(m, debugKey{m.key, fromHost, rootKey{}}, "", ownRoot)
	return info
}

// searched returns the debug information of an image that is at path below a root. It is
// not final where the root cannot be opened: its process is gone, another one may come.
func (s *Symbolizer) searched(m *image, key debugKey, path string, open func() (*root, error)) (info *debugInfo, final bool) {
	type result struct {
		info   *debugInfo
		noRoot bool
	}
	return s.remembered(key, func() (*debugInfo, bool) {
		found, _ := guarded(s.guardOf(key.root), func() result {
			r, err := open()
			if err != nil {
				return result{noRoot: true}
			}
			defer r.close()
			return result{info: orNil(searchDebug(r, m.elf, path, m.lines))}
		})
		return found.info, !found.noRoot
	})
}

// fetched asks the servers for the debug information of an image.
func (s *Symbolizer) fetched(m *image) *debugInfo {
	// This has a time limit of its own, and need not be guarded.
	file, err := s.remote.open(m.elf.buildID)
	if err != nil {
		return nil
	}
	defer file.Close()
	info, _ := guarded(&m.guard, func() *debugInfo { return orNil(readDebug(file, m.elf, m.lines)) })
	return info
}

// orNil drops the error: mostly there is no debug file, and why one is not good enough
// nobody asks.
func orNil(info *debugInfo, err error) *debugInfo {
	if err != nil {
		return nil
	}
	return info
}

// remembered returns the debug information of that key; search looks for it the first
// time. Two that look at the same time both find it.
func (s *Symbolizer) remembered(key debugKey, search func() (*debugInfo, bool)) (info *debugInfo, final bool) {
	s.mu.Lock()
	info, ok := s.debug.get(key)
	s.mu.Unlock()
	if ok {
		return info, true
	}
	if info, final = search(); !final {
		return nil, false
	}
	cost := int64(imageBytes)
	if info != nil {
		cost += info.bytes()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.debug.put(key, info, cost)
	return info, true
}

// perfMapOf returns the perf map of a process as it is now, or as it was last seen; nil if
// there is none.
func (s *Symbolizer) perfMapOf(p *object.Process) *perfMap {
	if p == nil {
		return nil
	}
	key := processKey{pid: p.Pid, start: p.Start}
	now, _ := guarded(s.guardOf(s.rootOf(p)), func() *perfMap {
		s.mu.Lock()
		known, ok := s.perf.get(key)
		s.mu.Unlock()
		if !ok {
			known = &perfMap{}
		}
		// Others may be reading the one that is known: what was read of it stays as it is.
		next := *known
		if err := next.refresh(s.proc, p); err != nil {
			return known
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.perf.put(key, &next, imageBytes+next.bytes())
		return &next
	})
	return now
}

// refresh reads what is new in the perf map of a process.
func (m *perfMap) refresh(proc procfs, p *object.Process) error {
	d, err := proc.open(p)
	if err != nil {
		return err
	}
	defer d.close()
	pid, uids, err := d.identity()
	if err != nil {
		return err
	}
	r, err := d.root()
	if err != nil {
		return err
	}
	defer r.close()
	file, st, err := openPerfMap(r, pid, uids)
	if err != nil {
		return err
	}
	defer file.Close()
	return m.update(file, st)
}
