//go:build amd64

package unwind

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
)

// A process with one file at codeStart whose code has, from each offset on, the rule
// given; anonymous code at anonStart; a file without number at unknownStart.
const (
	codeStart    = 0x400000
	codeSize     = 0x10000
	codeOffset   = 0x1000
	anonStart    = 0x500000
	unknownStart = 0x600000
	stackStart   = 0x7ff000
)

// Places in the code of the file.
const (
	atPlain uint64 = codeStart + 0x100*(iota+1)
	atStop
	atPLT
	atSignal
	atFP
	atDeref
	atRegister
	atLeaf
	atByFP
	atSavesFP
	atBack
	atInvalid
)

var placeRules = map[uint64]Rule{
	atPlain:    {Base: RegSP, Param: 16},
	atStop:     {Flags: FlagCommand, Param: CommandStop},
	atPLT:      {Flags: FlagCommand, Param: CommandPLT},
	atSignal:   {Flags: FlagCommand, Param: CommandSignal},
	atFP:       {Flags: FlagCommand, Param: CommandFP},
	atDeref:    {Flags: FlagDeref, Base: RegFP, Param: -16 + 1},
	atRegister: {Flags: FlagRegisterRA | FlagLeaf, Base: RegSP, Param: 0, Aux: RegRDI},
	atLeaf:     {Flags: FlagLeaf, Base: RegR11, Param: 8},
	atByFP:     {Base: RegFP, Param: 16},
	atSavesFP:  {Base: RegSP, Param: 32, Aux: RegCFA, AuxParam: -16},
	atBack:     {Base: RegSP, Param: -8},
	atInvalid:  ruleInvalid,
}

func fakeUnwinder(tb testing.TB) *Unwinder {
	tb.Helper()
	rules := NewRules()
	var blocks []block
	for at, rule := range placeRules {
		n, err := rules.Intern(rule)
		if err != nil {
			tb.Fatal(err)
		}
		off := at - codeStart + codeOffset
		blocks = append(blocks, block{off, off + 0x100, []change{{0, n}}})
	}
	table, err := makeTable(blocks)
	if err != nil {
		tb.Fatal(err)
	}
	cache := NewCache(rules, 1<<20)
	cache.Add(1, table)
	return NewUnwinder(cache, nil)
}

func fakeProcess(m object.Memory) *object.Process {
	file := &object.Object{ID: 1, Key: object.Key{Ino: 1}}
	return &object.Process{
		Maps: []object.Mapped{
			{VMA: object.VMA{Start: codeStart, End: codeStart + codeSize, Offset: codeOffset, Key: file.Key}, Object: file},
			{VMA: object.VMA{Start: anonStart, End: anonStart + codeSize}},
			{VMA: object.VMA{Start: unknownStart, End: unknownStart + codeSize, Key: object.Key{Ino: 2}}},
		},
		Memory: m,
	}
}

func words(v ...uint64) []byte {
	var b []byte
	for _, w := range v {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

// signalFrame is what the kernel leaves for a handler, from its stack pointer on.
func signalFrame(pc, sp, fp uint64) []uint64 {
	f := make([]uint64, 5+17)
	f[5+10], f[5+15], f[5+16] = fp, sp, pc
	return f
}

func TestApply(t *testing.T) {
	const junk = 0x1234
	regs := func(pc uint64, more ...uint64) Registers {
		r := Registers{RegPC: pc, RegSP: stackStart}
		for i := 0; i+1 < len(more); i += 2 {
			r[more[i]] = more[i+1]
		}
		return r
	}
	call := func(at uint64) uint64 { return at + 4 } // a return address there
	for _, c := range []struct {
		name   string
		regs   Registers
		stack  []uint64
		v8     bool
		perf   bool
		code   fuzzMemory
		want   []uint64
		qual   event.Quality
		reason event.UnwindReason
	}{
		{name: "stop", regs: regs(atStop), want: []uint64{atStop}, qual: event.QualityComplete},
		{
			name: "plain to stop", regs: regs(atPlain), stack: []uint64{junk, call(atStop)},
			want: []uint64{atPlain, call(atStop)}, qual: event.QualityComplete,
		},
		{name: "zero return address", regs: regs(atPlain), stack: []uint64{junk, 0}, want: []uint64{atPlain}, qual: event.QualityComplete},
		{
			name: "the rule of the call, not of the return address", regs: regs(atPlain), stack: []uint64{junk, atPlt0()},
			want: []uint64{atPlain, atPlt0()}, qual: event.QualityComplete,
		},
		{
			name: "PLT before the push", regs: regs(atPLT + 10), stack: []uint64{call(atStop)},
			want: []uint64{atPLT + 10, call(atStop)}, qual: event.QualityComplete,
		},
		{
			name: "PLT after the push", regs: regs(atPLT + 11), stack: []uint64{junk, call(atStop)},
			want: []uint64{atPLT + 11, call(atStop)}, qual: event.QualityComplete,
		},
		{
			name: "signal: no call before the PC", regs: regs(atSignal), stack: append(signalFrame(atStop, stackStart+400, 0), junk),
			want: []uint64{atSignal, atStop}, qual: event.QualityComplete,
		},
		{
			name: "signal: frame pointer and stack pointer", regs: regs(atSignal),
			stack: append(signalFrame(atByFP, stackStart+8*23, stackStart+8*24), junk, junk, junk, call(atStop)),
			want:  []uint64{atSignal, atByFP, call(atStop)}, qual: event.QualityComplete,
		},
		{name: "signal frame cut", regs: regs(atSignal), stack: signalFrame(atStop, 0, 0)[:21], want: []uint64{atSignal}, qual: event.QualityTruncated, reason: event.ReasonUnreadable},
		{
			name: "frame pointer", regs: regs(atFP, uint64(RegFP), stackStart+8), stack: []uint64{junk, stackStart + 32, call(atFP), junk, junk, call(atStop)},
			want: []uint64{atFP, call(atFP), call(atStop)}, qual: event.QualityComplete,
		},
		{
			name: "frame pointer below: another stack, not in the copy", regs: regs(atFP, uint64(RegFP), stackStart-64),
			want: []uint64{atFP}, qual: event.QualityTruncated, reason: event.ReasonUnreadable,
		},
		{name: "no frame pointer", regs: regs(atFP), want: []uint64{atFP}, qual: event.QualityTruncated, reason: event.ReasonBadFrame},
		{
			name: "CFA from memory", regs: regs(atDeref, uint64(RegFP), stackStart+16), stack: []uint64{stackStart + 16, junk, call(atStop)},
			want: []uint64{atDeref, call(atStop)}, qual: event.QualityComplete,
		},
		{
			name: "return address in a register", regs: regs(atRegister, uint64(RegRDI), call(atStop)),
			want: []uint64{atRegister, call(atStop)}, qual: event.QualityComplete,
		},
		{
			name: "a leaf's register", regs: regs(atLeaf, uint64(RegR11), stackStart+8), stack: []uint64{junk, call(atStop)},
			want: []uint64{atLeaf, call(atStop)}, qual: event.QualityComplete,
		},
		{
			name: "a leaf that called", regs: regs(atPlain, uint64(RegR11), stackStart+24), stack: []uint64{junk, call(atLeaf), junk, call(atStop)},
			want: []uint64{atPlain, call(atLeaf)}, qual: event.QualityTruncated, reason: event.ReasonBadFrame,
		},
		{
			name: "saved frame pointer", regs: regs(atSavesFP), stack: []uint64{junk, junk, stackStart + 40, call(atByFP), junk, junk, call(atStop)},
			want: []uint64{atSavesFP, call(atByFP), call(atStop)}, qual: event.QualityComplete,
		},
		{
			name: "based on the frame pointer and not saving it: gone", regs: regs(atByFP, uint64(RegFP), stackStart), stack: []uint64{junk, call(atFP), junk},
			want: []uint64{atByFP, call(atFP)}, qual: event.QualityTruncated, reason: event.ReasonBadFrame,
		},
		{name: "CFA not above", regs: regs(atBack), want: []uint64{atBack}, qual: event.QualityTruncated, reason: event.ReasonBadFrame},
		{name: "stack ends", regs: regs(atPlain), stack: []uint64{junk}, want: []uint64{atPlain}, qual: event.QualityTruncated, reason: event.ReasonUnreadable},
		{name: "no code", regs: regs(junk), qual: event.QualityTruncated, reason: event.ReasonUnmapped},
		{
			name: "return to no code", regs: regs(atPlain), stack: []uint64{junk, junk},
			want: []uint64{atPlain}, qual: event.QualityTruncated, reason: event.ReasonUnmapped,
		},
		{name: "no rule", regs: regs(atInvalid), want: []uint64{atInvalid}, qual: event.QualityTruncated, reason: event.ReasonNoRule},
		{name: "no table", regs: regs(unknownStart), want: []uint64{unknownStart}, qual: event.QualityTruncated, reason: event.ReasonNoTable},
		{
			name: "V8's built-in", regs: regs(atInvalid, uint64(RegFP), stackStart+16), stack: []uint64{0x7001, junk, stackStart, call(atStop)}, v8: true,
			want: []uint64{atInvalid, call(atStop)}, qual: event.QualityComplete,
		},
		{
			name: "code made by V8", regs: regs(anonStart, uint64(RegFP), stackStart), stack: []uint64{stackStart, call(atStop)}, v8: true,
			want: []uint64{anonStart, call(atStop)}, qual: event.QualityComplete,
		},
		{
			name: "code made by somebody", regs: regs(anonStart, uint64(RegFP), stackStart), stack: []uint64{stackStart, call(atStop)},
			code: fuzzMemory{0xff, 0xd0}, // call *%rax, everywhere
			want: []uint64{anonStart, call(atStop)}, qual: event.QualityGuessed,
		},
		{
			name: "no call before the return address", regs: regs(anonStart, uint64(RegFP), stackStart), stack: []uint64{stackStart, call(atStop)},
			code: fuzzMemory{0x90}, // nop
			want: []uint64{anonStart}, qual: event.QualityTruncated, reason: event.ReasonNoRule,
		},
		{
			name: "Python's trampoline", regs: regs(anonStart, uint64(RegFP), junk), stack: []uint64{junk, call(atStop)}, perf: true,
			want: []uint64{anonStart, call(atStop)}, qual: event.QualityComplete,
		},
	} {
		s := &Snapshot{Regs: c.regs, Stack: words(c.stack...), Runtime: event.Runtime{V8: c.v8, PythonTrampoline: c.perf}}
		r := fakeUnwinder(t).Unwind(s, fakeProcess(c.code))
		if !slices.Equal(r.PCs, c.want) || r.Quality != c.qual || r.Reason != c.reason {
			t.Errorf("%s: %x %q %q, want %x %q %q", c.name, r.PCs, r.Quality, r.Reason, c.want, c.qual, c.reason)
		}
	}
}

// atPlt0 is a return address at the start of atPLT: the call, the last instruction before,
// is still in atStop.
func atPlt0() uint64 { return atPLT }

func TestUnwindFrames(t *testing.T) {
	s := &Snapshot{
		Regs:    Registers{RegPC: atInvalid + 8, RegSP: stackStart, RegFP: stackStart + 16},
		Stack:   words(0x7001, 1, stackStart+32, anonStart+9, stackStart+48, unknownStart+7),
		Runtime: event.Runtime{V8: true},
	}
	r := fakeUnwinder(t).Unwind(s, fakeProcess(nil))
	want := []event.Frame{
		{Kind: event.FrameFile, Object: 1, Addr: atInvalid + 8 - codeStart + codeOffset, Aux: 0x7001},
		{Kind: event.FrameAnon, Return: true, Addr: anonStart + 9},
		{Kind: event.FrameUnmapped, Return: true, Addr: unknownStart + 7},
	}
	if !slices.Equal(r.Frames, want) {
		t.Errorf("frames %+v\nwant %+v", r.Frames, want)
	}
}

func TestUnwindIsBounded(t *testing.T) {
	stack := make([]uint64, 0, 2*MaxFrames+20)
	for range MaxFrames + 10 {
		stack = append(stack, 0, atPlain+4)
	}
	s := &Snapshot{Regs: Registers{RegPC: atPlain, RegSP: stackStart}, Stack: words(stack...)}
	r := fakeUnwinder(t).Unwind(s, fakeProcess(nil))
	if len(r.Frames) != MaxFrames || r.Quality != event.QualityTruncated || r.Reason != event.ReasonTooDeep {
		t.Errorf("%d frames, %v, %v", len(r.Frames), r.Quality, r.Reason)
	}
	// The last frame that is kept is the root: nothing is missing.
	stack[2*(MaxFrames-2)+1] = atStop + 4
	s.Stack = words(stack...)
	r = fakeUnwinder(t).Unwind(s, fakeProcess(nil))
	if len(r.Frames) != MaxFrames || r.Quality != event.QualityComplete {
		t.Errorf("%d frames to the root, %v, %v", len(r.Frames), r.Quality, r.Reason)
	}
}
