//go:build amd64

package unwind

import (
	"slices"
	"strings"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

const cacheRoom = 64 << 20

// unwindNow walks the stack of a blocked thread, with the symbols to help or without.
func unwindNow(t *testing.T, th thread, withSymbols bool, change func(*Snapshot)) (Result, []string) {
	t.Helper()
	p := process(t, th.pid)
	s := th.snapshot(t)
	if change != nil {
		change(s)
	}
	n := newNamer(t, p)
	var functions Functions
	if withSymbols {
		functions = n.functions
	}
	r := NewUnwinder(NewCache(NewRules(), cacheRoom), functions).Unwind(s, p)
	if len(r.PCs) != len(r.Frames) {
		t.Errorf("%d PCs for %d frames", len(r.PCs), len(r.Frames))
	}
	return r, n.names(r.Frames)
}

// chains are what the test program's stacks must contain, by its argument.
var chains = map[string][]string{
	"read":   {"do_read", "next_client", "serve_forever", "main"},
	"accept": {"do_accept", "next_client", "serve_forever", "main"},
	"buffer": {"do_read", "next_client", "with_buffer", "serve_forever", "main"},
}

func callOf(mode string) int {
	if mode == "accept" {
		return sysAccept
	}
	return sysRead
}

func TestUnwindC(t *testing.T) {
	for name, flags := range map[string][]string{
		"dynamic":    {"-fomit-frame-pointer"},
		"static":     {"-fomit-frame-pointer", "-static"},
		"static-pie": {"-fomit-frame-pointer", "-static-pie"},
		"pointers":   {"-fno-omit-frame-pointer"},
		"realign":    {"-fomit-frame-pointer", "-mstackrealign", "-mavx"},
		"O0":         {"-O0"},
	} {
		t.Run(name, func(t *testing.T) {
			program := build(t, "gcc", flags...)
			for mode, want := range chains {
				th := start(t, callOf(mode), "", program, mode)
				r, names := unwindNow(t, th, false, nil)
				checkComplete(t, mode, r, names, want)
				comparePCs(t, mode, r.PCs, gdbPCs(t, th))
			}
		})
	}
}

func checkComplete(t *testing.T, mode string, r Result, names, want []string) {
	t.Helper()
	if r.Quality != event.QualityComplete || r.Reason != event.ReasonNone {
		t.Errorf("%s: %v, %v", mode, r.Quality, r.Reason)
	}
	if !hasInOrder(names, want) {
		t.Errorf("%s: %v, want %v in it", mode, names, want)
	}
	if names[len(names)-1] != "_start" {
		t.Errorf("%s: ends in %s, want _start", mode, names[len(names)-1])
	}
}

func comparePCs(t *testing.T, what string, got, want []uint64) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: PCs %x, gdb says %x", what, got, want)
	}
}

func TestUnwindSignalHandler(t *testing.T) {
	for _, c := range []struct {
		mode        string
		interrupted []string
		outer       []string
	}{
		{"signal", []string{"kill", "__kill"}, []string{"spin_inner", "spin_outer", "main"}},
		{"fault", []string{"fault"}, []string{"fault", "main"}},
	} {
		for _, flag := range []string{"-fomit-frame-pointer", "-static"} {
			program := build(t, "gcc", flag)
			th := start(t, sysRead, "", program, c.mode)
			r, names := unwindNow(t, th, false, nil)
			checkComplete(t, c.mode, r, names, []string{"do_read", "in_handler", "handler"})
			checkComplete(t, c.mode, r, names, c.outer)
			comparePCs(t, c.mode, r.PCs, gdbPCs(t, th))
			// What the signal interrupted is at an instruction, not after a call.
			for i, f := range r.Frames {
				if want := i != 0 && !slices.Contains(c.interrupted, names[i]); f.Return != want {
					t.Errorf("%s, frame %d, %s: return address %v, want %v", c.mode, i, names[i], f.Return, want)
				}
			}
		}
	}
}

func TestUnwindNoTables(t *testing.T) {
	for name, c := range map[string]struct {
		compiler string
		flags    []string
	}{
		"musl-dynamic":  {"musl-gcc", []string{"-fomit-frame-pointer"}},
		"musl-static":   {"musl-gcc", []string{"-fomit-frame-pointer", "-static"}},
		"musl-pointers": {"musl-gcc", []string{"-fno-omit-frame-pointer"}},
		"musl-bare":     {"musl-gcc", []string{"-static", "-fomit-frame-pointer", "-fno-asynchronous-unwind-tables"}},
		"glibc-bare":    {"gcc", []string{"-fomit-frame-pointer", "-fno-asynchronous-unwind-tables", "-fcf-protection=full"}},
	} {
		t.Run(name, func(t *testing.T) {
			program := build(t, c.compiler, c.flags...)
			for mode, want := range chains {
				th := start(t, callOf(mode), "", program, mode)
				for _, withSymbols := range []bool{true, false} {
					r, names := unwindNow(t, th, withSymbols, nil)
					t.Logf("%s symbols %v: %v %v: %s", mode, withSymbols, r.Quality, r.Reason, strings.Join(names, " < "))
					if !hasInOrder(names, want) {
						t.Errorf("%s, symbols %v: %v, want %v in it", mode, withSymbols, names, want)
					}
					if r.Quality != event.QualityGuessed {
						t.Errorf("%s, symbols %v: %v", mode, withSymbols, r.Quality)
					}
				}
			}
		})
	}
}
