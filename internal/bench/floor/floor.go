// Package floor runs the least programs that a tool of this kind must have, to measure what no
// tool can do without.
package floor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
)

const (
	// wakeBytes may wait in the ring before its reader is woken.
	wakeBytes = 1 << 20
	// pollEvery is how often the reader looks by itself.
	pollEvery = 20 * time.Millisecond
)

// load makes the programs named, with the maps shared.
func load(names ...string) (*ebpf.Collection, error) {
	spec, err := loadBpf()
	if err != nil {
		return nil, fmt.Errorf("read floor programs: %w", err)
	}
	maps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool { return !slices.Contains(names, name) })
	if err := spec.Variables[bpfVarFloorWakeBytes].Set(uint64(wakeBytes)); err != nil {
		return nil, fmt.Errorf("set %s: %w", bpfVarFloorWakeBytes, err)
	}
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("load floor programs: %w", err)
	}
	return c, nil
}

// attach loads and attaches one program until the returned function is called.
func attach(name string) (*ebpf.Collection, func(), error) {
	c, err := load(name)
	if err != nil {
		return nil, nil, err
	}
	l, err := link.AttachTracing(link.TracingOptions{Program: c.Programs[name]})
	if err != nil {
		c.Close()
		return nil, nil, fmt.Errorf("attach %s: %w", name, err)
	}
	return c, func() {
		_ = l.Close()
		c.Close()
	}, nil
}

// Program is one that tells nobody anything.
type Program string

// The programs.
const (
	// Empty does nothing at every transition, Receive at every read.
	Empty   Program = bpfProgFloorEmpty
	Receive Program = bpfProgFloorRecv
	// Keep has 184 bytes with every socket, and writes the time of each transition there.
	Keep Program = bpfProgFloorKeep
)

// Hold keeps a program attached until ctx ends. ready is called when it is.
func Hold(ctx context.Context, p Program, ready func()) error {
	_, detach, err := attach(string(p))
	if err != nil {
		return err
	}
	defer detach()
	ready()
	<-ctx.Done()
	return nil
}

// Record sends a record of 64 bytes for every transition, until ctx ends; out gets each as a
// line of text. It returns how many found no room in the ring.
func Record(ctx context.Context, out io.Writer, ready func()) (lost uint64, err error) {
	c, detach, err := attach(bpfProgFloorRecord)
	if err != nil {
		return 0, err
	}
	defer detach()
	reader, err := ringbuf.NewReader(c.Maps[bpfMapFloorRing])
	if err != nil {
		return 0, fmt.Errorf("open floor ring: %w", err)
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	ready()
	if err := printAll(ctx, reader, out); err != nil {
		return 0, err
	}
	if err := c.Variables[bpfVarFloorLost].Get(&lost); err != nil {
		return 0, fmt.Errorf("read %s: %w", bpfVarFloorLost, err)
	}
	return lost, nil
}

func printAll(ctx context.Context, reader *ringbuf.Reader, out io.Writer) error {
	var rec ringbuf.Record
	const full = 64 << 10
	line := make([]byte, 0, 2*full)
	for last := false; ; {
		// The deadline only counts when the ring is empty.
		reader.SetDeadline(time.Now().Add(pollEvery))
		err := reader.ReadInto(&rec)
		empty := errors.Is(err, os.ErrDeadlineExceeded)
		if err != nil && !empty {
			return fmt.Errorf("read floor ring: %w", err)
		}
		if !empty {
			line = appendEvent(line, rec.RawSample)
		}
		if empty || len(line) >= full {
			if _, err := out.Write(line); err != nil {
				return fmt.Errorf("write floor text: %w", err)
			}
			line = line[:0]
		}
		if empty && last {
			return nil
		}
		last = ctx.Err() != nil
	}
}

// appendEvent writes struct floor_event as a line.
func appendEvent(to, raw []byte) []byte {
	if len(raw) < 64 {
		return to
	}
	to = strconv.AppendUint(to, binary.NativeEndian.Uint64(raw), 10)
	to = append(to, ' ')
	to = strconv.AppendUint(to, binary.NativeEndian.Uint64(raw[8:]), 16)
	to = append(to, ' ')
	to = strconv.AppendUint(to, uint64(binary.NativeEndian.Uint32(raw[48:])), 10)
	for i, addr := range [][]byte{raw[16:20], raw[32:36]} {
		to = append(to, ' ')
		to = netip.AddrFrom4([4]byte(addr)).AppendTo(to)
		to = append(to, ' ')
		to = strconv.AppendUint(to, uint64(binary.NativeEndian.Uint16(raw[52+2*i:])), 10)
	}
	for _, state := range raw[56:58] {
		to = append(to, ' ')
		to = strconv.AppendUint(to, uint64(state), 10)
	}
	return append(to, '\n')
}

// Walked is one pass over the sockets in CLOSE_WAIT of a network namespace, and over all
// descriptors for their holders.
type Walked struct {
	// Sockets and Holders are the rows read.
	Sockets, Holders int
	// Passes is the time of the two passes, without loading and attaching.
	Passes time.Duration
}

// rowSize is struct floor_row.
const rowSize = 64

// Walk makes both passes from the calling thread's network namespace.
func Walk() (w Walked, err error) {
	names := []string{bpfProgFloorSockets, bpfProgFloorHolders}
	c, err := load(names...)
	if err != nil {
		return w, err
	}
	defer c.Close()
	for i, name := range names {
		n, took, err := pass(c.Programs[name])
		if err != nil {
			return w, fmt.Errorf("run %s: %w", name, err)
		}
		w.Passes += took
		*[]*int{&w.Sockets, &w.Holders}[i] = n
	}
	return w, nil
}

func pass(p *ebpf.Program) (rows int, took time.Duration, err error) {
	l, err := link.AttachIter(link.IterOptions{Program: p})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	started := time.Now()
	r, err := l.Open()
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	size := 0
	for buffer := make([]byte, 256<<10); ; {
		n, err := r.Read(buffer)
		size += n
		if errors.Is(err, io.EOF) {
			return size / rowSize, time.Since(started), nil
		}
		if err != nil {
			return 0, 0, err
		}
	}
}
