package pipeline

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/netns"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// stateSpace is what a network namespace says of its sockets on the whole.
type stateSpace struct {
	currEstab uint64
	// patience is nil where it was not asked for or could not be read.
	patience *diagnosis.Patience
}

// stateSpaces reads what the query needs in each namespace it chooses. What cannot be entered
// is left out; the snapshot tells of it.
func (e *Engine) stateSpaces(q *StatesQuery) map[uint32]stateSpace {
	if !q.Whole && !q.Dwell {
		return nil
	}
	list, err := netns.List(e.cfg.Proc)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		e.log.Warn("network namespaces cannot be listed: their settings are not known", "error", err)
	}
	all := map[uint32]stateSpace{}
	chosen := q.Filter.Kernel().Netns
	for _, ns := range list {
		if len(chosen) > 0 && !slices.Contains(chosen, ns.Inode) {
			continue
		}
		err := ns.Do(func() error {
			s, err := readStateSpace(e.cfg.Proc, q.Dwell)
			if err == nil {
				all[ns.Inode] = s
			}
			return err
		})
		if err != nil && !errors.Is(err, netns.ErrGone) {
			e.log.Info("settings of a network namespace are not known", "netns", ns.Inode, "error", err)
		}
	}
	return all
}

// readStateSpace reads the namespace of the calling thread.
func readStateSpace(proc string, dwell bool) (s stateSpace, err error) {
	// /proc/net is that of the main thread.
	text, err := os.ReadFile(filepath.Join(proc, "thread-self", "net", "snmp"))
	if err != nil {
		return s, fmt.Errorf("read counters: %w", err)
	}
	if s.currEstab, err = parseCurrEstab(text); err != nil || !dwell {
		return s, err
	}
	values := map[string]string{}
	for _, name := range diagnosis.PatienceSysctls() {
		text, err := os.ReadFile(filepath.Join(proc, "sys", strings.ReplaceAll(name, ".", "/")))
		if err == nil {
			values[name] = string(text)
		} else if !errors.Is(err, fs.ErrNotExist) { // older kernels have fewer
			return s, fmt.Errorf("read %s: %w", name, err)
		}
	}
	p, err := diagnosis.ParsePatience(values)
	if err != nil {
		return s, err
	}
	s.patience = &p
	return s, nil
}

// parseCurrEstab finds the counter in /proc/net/snmp: a line of names, then one of values.
func parseCurrEstab(text []byte) (uint64, error) {
	var names []string
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) == 0 || fields[0] != "Tcp:":
		case names == nil:
			names = fields
		default:
			at := slices.Index(names, "CurrEstab")
			if at < 0 || at >= len(fields) {
				return 0, errors.New("parse counters: no CurrEstab")
			}
			n, err := strconv.ParseUint(fields[at], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("parse CurrEstab: %w", err)
			}
			return n, nil
		}
	}
	return 0, errors.New("parse counters: no values of Tcp")
}

// tabledSockets are the sockets of one namespace in the two states in question.
type tabledSockets struct{ established, closeWait uint64 }

func tabledIn(cases []diagnosis.Case) map[uint32]*tabledSockets {
	all := map[uint32]*tabledSockets{}
	for i := range cases {
		s := &cases[i]
		if s.State != event.Established && s.State != event.CloseWait {
			continue
		}
		t := all[s.Flow.Netns]
		if t == nil {
			t = &tabledSockets{}
			all[s.Flow.Netns] = t
		}
		if s.State == event.Established {
			t.established++
		} else {
			t.closeWait++
		}
	}
	return all
}

// establishedOf compares the kernel's counters, read before and after, with the sockets found
// between.
func establishedOf(before, after map[uint32]stateSpace, cases []diagnosis.Case, f *record.Facts) *record.Established {
	tables := tabledIn(cases)
	counted, known := countsCloseWait(before, after, tables)
	r := &record.Established{Netns: []record.NetnsEstablished{}}
	var sum uint64
	for inode, space := range after {
		n := record.NetnsEstablished{Netns: inode, NetnsName: f.NetnsName(inode), CurrEstab: space.currEstab, CloseWait: new(uint64)}
		t := tables[inode]
		switch {
		case t == nil || t.closeWait == 0:
		case !known:
			n.CloseWait = nil
		case counted:
			// Some may have come after the counter was read.
			*n.CloseWait = min(t.closeWait, n.CurrEstab)
		}
		if n.CloseWait != nil {
			sum += *n.CloseWait
		}
		r.CurrEstab += n.CurrEstab
		if n.CurrEstab > 0 || n.CloseWait == nil {
			r.Netns = append(r.Netns, n)
		}
	}
	if !slices.ContainsFunc(r.Netns, func(n record.NetnsEstablished) bool { return n.CloseWait == nil }) {
		r.CloseWait = &sum
	}
	slices.SortFunc(r.Netns, func(a, b record.NetnsEstablished) int {
		return cmp.Or(cmp.Compare(b.CurrEstab, a.CurrEstab), cmp.Compare(a.Netns, b.Netns))
	})
	return r
}

// countsCloseWait finds out whether this kernel counts sockets in CLOSE_WAIT as established.
// Before 6.10 it did not, but many were fixed later ("tcp: count CLOSE-WAIT sockets for
// TCP_MIB_CURRESTAB"), so the version tells nothing: the numbers must. Not known where they
// change too fast, or contradict each other.
func countsCloseWait(before, after map[uint32]stateSpace, tables map[uint32]*tabledSockets) (counted, known bool) {
	yes, no := 0, 0
	for inode, t := range tables {
		a, ok := after[inode]
		b, there := before[inode]
		if !ok || !there || t.closeWait == 0 {
			continue
		}
		low, high := min(a.currEstab, b.currEstab), max(a.currEstab, b.currEstab)
		// A quarter of the difference between the two answers is left for what happened meanwhile.
		with := 4*apart(t.established+t.closeWait, low, high) <= t.closeWait
		without := 4*apart(t.established, low, high) <= t.closeWait
		switch {
		case with && !without:
			yes++
		case without && !with:
			no++
		}
	}
	return yes > 0, (yes > 0) != (no > 0)
}

// apart is how far n is from the range.
func apart(n, low, high uint64) uint64 {
	switch {
	case n < low:
		return low - n
	case n > high:
		return n - high
	default:
		return 0
	}
}
