package tracer

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"unsafe"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// findFamily adds the process to follow and the descendants it has already. Forks are
// being watched by now, so nobody is missed.
func (t *Tracer) findFamily() error {
	if t.cfg.Family == 0 {
		return nil
	}
	for _, fact := range []string{factFork, factFamily} {
		if err := t.needs(fact); err != nil {
			return fmt.Errorf("follow process %d: %w", t.cfg.Family, err)
		}
	}
	var total uint32
	// A pass goes by number, and a child's can be lower than its parent's.
	for {
		found, err := t.relatives()
		switch {
		case err != nil:
			return fmt.Errorf("follow process %d: %w", t.cfg.Family, err)
		case found > 0:
			total += found
		case total == 0:
			return fmt.Errorf("follow process %d: there is no such process", t.cfg.Family)
		default:
			return nil
		}
	}
}

// needs is an error where no hook gives the fact, with the reason of the last one tried.
func (t *Tracer) needs(fact string) error {
	var reason string
	for i := range t.hooks {
		if h := &t.hooks[i]; h.fact == fact {
			if h.attached {
				return nil
			}
			reason = fmt.Sprintf("%s %s: %s", h.kind, h.target, h.reason)
		}
	}
	return &CannotRunError{
		Cause: "processes cannot be followed: " + reason,
		Cure:  "see tcpwaitd doctor for what this kernel allows",
	}
}

// relatives makes one pass over all processes and returns how many were added.
func (t *Tracer) relatives() (found uint32, err error) {
	if err := t.set("relatives_found", uint32(0)); err != nil {
		return 0, err
	}
	r, err := t.iters[factFamily].Open()
	if err != nil {
		return 0, fmt.Errorf("open iterator: %w", err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return 0, errors.Join(fmt.Errorf("read iterator: %w", err), r.Close())
	}
	if err := r.Close(); err != nil {
		return 0, fmt.Errorf("close iterator: %w", err)
	}
	if err := t.maps.Variables["relatives_found"].Get(&found); err != nil {
		return 0, fmt.Errorf("read relatives_found: %w", err)
	}
	return found, nil
}

// Relative is a process of a family.
type Relative struct {
	event.Task
	// Ended is when its last thread did, before the kernel closed its files; 0 while it runs, or
	// if that is not known.
	Ended event.KTime
}

// Family returns every process that was seen among the descendants of Config.Family, and
// that process itself, the ended ones included, by their start. Starts are those of the
// processes, names those of the last exec. A process that was too many is among
// Stats.RelativesLost, with its descendants left out.
func (t *Tracer) Family() ([]Relative, error) {
	if t.cfg.Family == 0 {
		return nil, nil
	}
	t.snapshotMu.Lock()
	defer t.snapshotMu.Unlock()
	if t.closed {
		return nil, ErrClosed
	}
	var all []Relative
	var key bpfRelative
	var kin bpfKin
	it := t.maps.Maps["family"].Iterate()
	for it.Next(&key, &kin) {
		task := event.Task{Pid: key.Tgid, Tid: key.Tgid, Start: event.BootTime(key.Start), Comm: *(*event.Comm)(unsafe.Pointer(&kin.Comm))}
		all = append(all, Relative{task, event.KTime(kin.Ended)})
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read family: %w", err)
	}
	slices.SortFunc(all, func(a, b Relative) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.Pid, b.Pid))
	})
	return all, nil
}
