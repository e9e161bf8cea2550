package unwind

import (
	"errors"
	"sync"
	"testing"
	"unsafe"

	"go.opentelemetry.io/ebpf-profiler/support"
)

// TestRuleNumbers: the numbers in a rule are the library's, which we pass on as they are.
func TestRuleNumbers(t *testing.T) {
	for _, c := range []struct {
		name       string
		ours, want int64
	}{
		{"FlagCommand", int64(FlagCommand), int64(support.UnwindFlagCommand)},
		{"FlagFrame", int64(FlagFrame), int64(support.UnwindFlagFrame)},
		{"FlagLeaf", int64(FlagLeaf), int64(support.UnwindFlagLeafOnly)},
		{"FlagDeref", int64(FlagDeref), int64(support.UnwindFlagDerefCfa)},
		{"FlagRegisterRA", int64(FlagRegisterRA), int64(support.UnwindFlagRegisterRA)},
		{"derefMask", derefMask, int64(support.UnwindDerefMask)},
		{"derefUnit", derefUnit, int64(support.UnwindDerefMultiplier)},
		{"RegNone", int64(RegNone), int64(support.UnwindRegInvalid)},
		{"RegCFA", int64(RegCFA), int64(support.UnwindRegCfa)},
		{"RegPC", int64(RegPC), int64(support.UnwindRegPc)},
		{"RegSP", int64(RegSP), int64(support.UnwindRegSp)},
		{"RegFP", int64(RegFP), int64(support.UnwindRegFp)},
		{"RegLR", int64(RegLR), int64(support.UnwindRegLr)},
		{"RegRAX", int64(RegRAX), int64(support.UnwindRegX86RAX)},
		{"RegRDI", int64(RegRDI), int64(support.UnwindRegX86RDI)},
		{"RegR8", int64(RegR8), int64(support.UnwindRegX86R8)},
		{"RegR9", int64(RegR9), int64(support.UnwindRegX86R9)},
		{"RegR11", int64(RegR11), int64(support.UnwindRegX86R11)},
		{"RegR13", int64(RegR13), int64(support.UnwindRegX86R13)},
		{"RegR15", int64(RegR15), int64(support.UnwindRegX86R15)},
		{"CommandInvalid", int64(CommandInvalid), int64(support.UnwindCommandInvalid)},
		{"CommandStop", int64(CommandStop), int64(support.UnwindCommandStop)},
		{"CommandPLT", int64(CommandPLT), int64(support.UnwindCommandPLT)},
		{"CommandSignal", int64(CommandSignal), int64(support.UnwindCommandSignal)},
		{"CommandFP", int64(CommandFP), int64(support.UnwindCommandFramePointer)},
	} {
		if c.ours != c.want {
			t.Errorf("%s is %d, the library has %d", c.name, c.ours, c.want)
		}
	}
	if size := unsafe.Sizeof(Rule{}); size != 12 {
		t.Errorf("a rule has %d bytes, the kernel's has 12", size)
	}
}

func TestRulesInternsOnce(t *testing.T) {
	r := NewRules()
	if got := r.At(0); got != ruleInvalid {
		t.Errorf("rule 0 is %+v, want the invalid one", got)
	}
	rule := Rule{Base: RegSP, Param: 8}
	var wg sync.WaitGroup
	numbers := make([]uint16, 8)
	for i := range numbers {
		wg.Go(func() { numbers[i], _ = r.Intern(rule) })
	}
	wg.Wait()
	for _, n := range numbers {
		if n != 1 {
			t.Errorf("the first rule is number %d, want 1", n)
		}
	}
	if got := r.From(1); len(got) != 1 || got[0] != rule {
		t.Errorf("rules from 1: %+v", got)
	}
	for _, n := range []int{-1, 2, 1 << 20} {
		if got := r.From(n); got != nil {
			t.Errorf("rules from %d: %+v, want none", n, got)
		}
	}
	if got := r.At(9999); got != ruleInvalid {
		t.Errorf("rule 9999 is %+v, want the invalid one", got)
	}
}

func TestRulesAreBounded(t *testing.T) {
	r := NewRules()
	for i := 1; i < MaxRules; i++ {
		if n, err := r.Intern(Rule{Base: RegSP, Param: int32(i)}); err != nil || int(n) != i {
			t.Fatalf("rule %d: number %d, %v", i, n, err)
		}
	}
	if _, err := r.Intern(Rule{Base: RegFP}); !errors.Is(err, ErrLimit) {
		t.Errorf("one more rule: %v, want %v", err, ErrLimit)
	}
	if n, err := r.Intern(Rule{Base: RegSP, Param: 7}); err != nil || n != 7 {
		t.Errorf("a known rule in a full list: %d, %v", n, err)
	}
}
