package symbol

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of perf maps. Node with --perf-basic-prof writes some 10 MB an hour.
const (
	maxPerfMap     = 64 << 20 // bytes of the file
	maxPerfEntries = 1 << 20
	perfEntryBytes = 16
	// maxPerfOverlap is how many entries that begin before an address are looked at.
	maxPerfOverlap = 64
)

// perfMap is what a runtime tells of the code it generates, in the file that perf agreed
// on: /tmp/perf-PID.map, lines of "START SIZE name" with hexadecimal numbers. Runtimes
// append to it; where code is replaced, the later line counts.
type perfMap struct {
	device, inode uint64
	size, read    int64       // bytes of the file seen and parsed so far
	entries       []perfEntry // by start; of the same start, the latest only
	names         []byte      // each ends in a newline
}

// perfEntry is a piece of generated code. A later entry has a larger name.
type perfEntry struct {
	start uint64
	size  uint32
	name  uint32 // offset in names
}

// openPerfMap opens the perf map of a process in its own file system under its own pid. It
// must belong to one of the process's users or to root: /tmp is everybody's.
func openPerfMap(r *root, pid uint64, uids []uint32) (*os.File, *unix.Stat_t, error) {
	file, err := r.open("/tmp/perf-"+strconv.FormatUint(pid, 10)+".map", unix.O_NOFOLLOW)
	if err != nil {
		return nil, nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		_ = file.Close()
		return nil, nil, fmt.Errorf("stat perf map: %w", err)
	}
	if st.Uid != 0 && !slices.Contains(uids, st.Uid) {
		_ = file.Close()
		return nil, nil, fmt.Errorf("perf map of user %d: %w", st.Uid, errOwner)
	}
	return file, &st, nil
}

// update reads what was added to the file since the last time, or all of it where it is
// another file now.
func (m *perfMap) update(file *os.File, st *unix.Stat_t) error {
	if m.device != st.Dev || m.inode != st.Ino || st.Size < m.size {
		*m = perfMap{device: st.Dev, inode: st.Ino}
	}
	size := min(st.Size, maxPerfMap)
	if size == m.size {
		return nil
	}
	m.size = size
	raw := make([]byte, size-m.read)
	n, err := file.ReadAt(raw, m.read)
	if n < len(raw) && err != nil {
		return fmt.Errorf("read perf map: %w", err)
	}
	m.add(raw)
	return nil
}

// add takes in the complete lines at the beginning of raw.
func (m *perfMap) add(raw []byte) {
	added := len(m.entries)
	for {
		end := bytes.IndexByte(raw, '\n')
		if end < 0 {
			break
		}
		line := raw[:end]
		raw = raw[end+1:]
		m.read += int64(end) + 1
		if len(m.entries) >= maxPerfEntries {
			continue
		}
		if e, name, ok := parsePerfLine(line); ok {
			e.name = uint32(len(m.names))
			m.names = append(append(m.names, name...), '\n')
			m.entries = append(m.entries, e)
		}
	}
	m.sort(added)
}

// parsePerfLine reads a line without its newline.
func parsePerfLine(line []byte) (e perfEntry, name []byte, ok bool) {
	first, rest, ok1 := bytes.Cut(line, []byte{' '})
	second, name, ok2 := bytes.Cut(rest, []byte{' '})
	name = name[:min(len(name), maxMangled)]
	start, err1 := parseHex(first)
	size, err2 := parseHex(second)
	if !ok1 || !ok2 || len(name) == 0 || err1 != nil || err2 != nil || size == 0 || size > 1<<32-1 {
		return e, nil, false
	}
	return perfEntry{start: start, size: uint32(size)}, name, true
}

func parseHex(b []byte) (uint64, error) {
	const longest = len("0x") + 16
	if len(b) > longest {
		return 0, strconv.ErrRange
	}
	return strconv.ParseUint(strings.TrimPrefix(string(b), "0x"), 16, 64)
}

// sort puts the entries from added on where they belong. The others are sorted.
func (m *perfMap) sort(added int) {
	if added == len(m.entries) {
		return
	}
	order := func(a, b perfEntry) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.name, b.name))
	}
	slices.SortFunc(m.entries[added:], order)
	merged := make([]perfEntry, 0, len(m.entries))
	a, b := m.entries[:added], m.entries[added:]
	for len(a)+len(b) > 0 {
		from := &b
		if len(b) == 0 || len(a) > 0 && order(a[0], b[0]) < 0 {
			from = &a
		}
		next := (*from)[0]
		*from = (*from)[1:]
		if n := len(merged); n > 0 && merged[n-1].start == next.start {
			merged[n-1] = next
			continue
		}
		merged = append(merged, next)
	}
	m.entries = merged
}

// find returns the name of the code at the address, "" if there is none.
func (m *perfMap) find(addr uint64) string {
	above := sort.Search(len(m.entries), func(i int) bool { return m.entries[i].start > addr })
	found := -1
	for i := above - 1; i >= 0 && i >= above-maxPerfOverlap; i-- {
		e := m.entries[i]
		if addr-e.start < uint64(e.size) && (found < 0 || e.name > m.entries[found].name) {
			found = i
		}
	}
	if found < 0 {
		return ""
	}
	name := m.names[m.entries[found].name:]
	return string(name[:bytes.IndexByte(name, '\n')])
}

func (m *perfMap) bytes() int64 {
	return int64(cap(m.entries))*perfEntryBytes + int64(cap(m.names))
}

// perfFrame makes a frame of a name in a perf map. Two runtimes say in it where the
// function is: CPython "py::function:file", Node "JS:*function file:line:column".
func perfFrame(name string, addr uint64) Frame {
	f := Frame{Function: name, Offset: addr, Kind: JIT}
	if rest, ok := strings.CutPrefix(name, "py::"); ok {
		f.Kind = Python
		if function, file, ok := strings.Cut(rest, ":"); ok {
			f.Function, f.File = "py::"+function, file
		}
	} else if rest, ok := strings.CutPrefix(name, "JS:"); ok {
		f.Kind = JS
		f.Function, f.File, f.Line = jsName(rest)
	}
	f.Function = shorten(f.Function)
	return f
}

// jsName takes "*function file:line:column" apart. The mark before the name says which
// compiler made the code.
func jsName(text string) (function, file string, line int) {
	text = strings.TrimLeft(text, "~^+*")
	function, position, ok := strings.Cut(text, " ")
	if !ok {
		return text, "", 0
	}
	parts := strings.Split(position, ":")
	if n := len(parts); n >= 3 {
		if at, err := strconv.Atoi(parts[n-2]); err == nil && at > 0 {
			return function, strings.Join(parts[:n-2], ":"), at
		}
	}
	return function, position, 0
}
