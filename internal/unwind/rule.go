package unwind

import (
	"fmt"
	"slices"
	"sync"
)

// Rule says how to get from a frame to its caller. It is struct rule of bpf/events.h; the
// numbers in it are those of go.opentelemetry.io/ebpf-profiler/support, v0.0.202633.
//
// Without FlagCommand the canonical frame address, which is the caller's stack pointer,
// is Base + Param; the return address is the word below it; the caller's frame pointer is
// the word at Aux + AuxParam, or unchanged if Aux is RegNone.
type Rule struct {
	Flags, Base, Aux, Pad uint8
	Param, AuxParam       int32
}

// Flags of a Rule.
const (
	// FlagCommand: Param is a command, the rest is unused.
	FlagCommand uint8 = 1 << iota
	// FlagFrame is of no use on x86-64.
	FlagFrame
	// FlagLeaf: Base or Aux is a register that calls do not preserve, so the rule is good
	// in an innermost frame only.
	FlagLeaf
	// FlagDeref: the CFA is not Base + Param, see derefMask.
	FlagDeref
	// FlagRegisterRA: the return address is Aux + AuxParam itself, not a word in memory.
	FlagRegisterRA
)

// With FlagDeref the CFA is the word at Base + (Param &^ derefMask), plus derefUnit times
// (Param & derefMask).
const (
	derefMask = 7
	derefUnit = 8
)

// Registers a Rule can start from, and their places in Registers.
const (
	RegNone uint8 = iota
	// RegCFA is the CFA of the frame, found just before.
	RegCFA
	RegPC
	RegSP
	RegFP
	// RegLR is of no use on x86-64.
	RegLR
	RegRAX
	RegRDI
	RegR8
	RegR9
	RegR11
	RegR13
	RegR15

	// RegMax is the room for registers in Registers and in the kernel's record.
	RegMax = 16
)

// Commands, in Param of a Rule with FlagCommand.
const (
	// CommandInvalid: no way to unwind is known here.
	CommandInvalid int32 = iota
	// CommandStop: the outermost frame of a stack.
	CommandStop
	// CommandPLT: a stub of the procedure linkage table; how far it has pushed depends on
	// the place in it.
	CommandPLT
	// CommandSignal: the frame that the kernel made for a signal handler.
	CommandSignal
	// CommandFP: this code keeps frame pointers (Go).
	CommandFP
)

// ruleInvalid is number 0 of every list.
var ruleInvalid = Rule{Flags: FlagCommand, Param: CommandInvalid}

// MaxRules is the room for rules on the kernel side. All 1,180 objects of a development
// machine together have 4,534 different ones, six servers and their libraries 843.
const MaxRules = 8192

// Rules is the list of all rules that tables refer to, each once. It only grows. It is
// safe for concurrent use.
type Rules struct {
	mu     sync.RWMutex
	rules  []Rule
	number map[Rule]uint16
}

// NewRules returns a list with one rule, the invalid one, as number 0.
func NewRules() *Rules {
	return &Rules{rules: []Rule{ruleInvalid}, number: map[Rule]uint16{ruleInvalid: 0}}
}

// Intern returns the number of rule, a new one if it is new. It fails when there are
// MaxRules others.
func (r *Rules) Intern(rule Rule) (uint16, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n, ok := r.number[rule]; ok {
		return n, nil
	}
	if len(r.rules) >= MaxRules {
		return 0, fmt.Errorf("add unwind rule: %w of %d rules", ErrLimit, MaxRules)
	}
	n := uint16(len(r.rules))
	r.rules = append(r.rules, rule)
	r.number[rule] = n
	return n, nil
}

// From returns a copy of the rules from number n on, none if there are no more.
func (r *Rules) From(n int) []Rule {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if n < 0 || n >= len(r.rules) {
		return nil
	}
	return slices.Clone(r.rules[n:])
}

// At returns rule number i, the invalid one if there is none.
func (r *Rules) At(i uint16) Rule {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if int(i) >= len(r.rules) {
		return ruleInvalid
	}
	return r.rules[i]
}
