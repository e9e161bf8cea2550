package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// stackFrame is one frame of a record as a script reads it.
type stackFrame struct {
	Function, File, Module, Kind string
	Line                         int
	Offset                       uint64
	User                         bool
}

// stack is one stack of a record, frames innermost first.
type stack struct {
	Frames                []stackFrame
	Tid                   int
	Comm, Quality, Reason string
}

// stacks are those of one socket, by slot.
type stacks map[string]*stack

func (f *stackFrame) String() string {
	name := f.Function
	if name == "" {
		name = "?"
	}
	if f.File != "" {
		name += fmt.Sprintf(" (%s:%d)", f.File, f.Line)
	}
	return fmt.Sprintf("%s  %s+%#x %s user=%v", name, f.Module, f.Offset, f.Kind, f.User)
}

func (s *stack) String() string {
	if s == nil {
		return "    none\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "    %s %s, tid %d %s\n", s.Quality, s.Reason, s.Tid, s.Comm)
	for i := range s.Frames {
		fmt.Fprintf(&b, "    %3d %v\n", i, &s.Frames[i])
	}
	return b.String()
}

// userFrames are the functions marked as those that stand for the stack.
func (s *stack) userFrames() (all []string) {
	for i := range s.Frames {
		if s.Frames[i].User {
			all = append(all, s.Frames[i].Function)
		}
	}
	return all
}

func (s stacks) String() string {
	var b strings.Builder
	for _, slot := range []string{"open", "last_read", "eof", "close"} {
		if s[slot] != nil {
			fmt.Fprintf(&b, "  %s:\n%v", slot, s[slot])
		}
	}
	return b.String()
}

// anything stands for any number of frames, none included.
const anything = "..."

// want is what a stack must hold.
type want struct {
	slot string
	// frames from the innermost on: each is one of the spellings that namedBy knows, several
	// with "|" between, or anything. More frames may follow.
	frames []string
	// quality is "complete" where not said otherwise.
	quality string
	// kinds are the frames to look at, all of them where not said otherwise.
	kinds []string
	// user is the function of the one frame that stands for the stack, where it matters.
	user string
}

// check says what is wrong, "" for nothing.
func (w *want) check(got stacks) string {
	s := got[w.slot]
	if s == nil {
		return fmt.Sprintf("no %s stack", w.slot)
	}
	quality := w.quality
	if quality == "" {
		quality = "complete"
	}
	if s.Quality != quality {
		return fmt.Sprintf("%s stack is %q (%s), want %q", w.slot, s.Quality, s.Reason, quality)
	}
	frames := s.Frames
	if w.kinds != nil {
		frames = slices.DeleteFunc(slices.Clone(frames), func(f stackFrame) bool { return !slices.Contains(w.kinds, f.Kind) })
	}
	if user := s.userFrames(); w.user != "" && !slices.Equal(user, []string{w.user}) {
		return fmt.Sprintf("%s stack stands for %v, want %s", w.slot, user, w.user)
	}
	if !matches(frames, w.frames) {
		return fmt.Sprintf("%s stack is not %s", w.slot, strings.Join(w.frames, " < "))
	}
	return ""
}

// checkAll joins what is wrong.
func checkAll(wants []want, got stacks) string {
	var wrong []string
	for _, w := range wants {
		if text := w.check(got); text != "" {
			wrong = append(wrong, text)
		}
	}
	return strings.Join(wrong, "; ")
}

// matches: the frames begin as wanted.
func matches(frames []stackFrame, wanted []string) bool {
	switch {
	case len(wanted) == 0:
		return true
	case wanted[0] == anything:
		for i := range len(frames) + 1 {
			if matches(frames[i:], wanted[1:]) {
				return true
			}
		}
		return false
	default:
		return len(frames) > 0 && namedBy(&frames[0], wanted[0]) && matches(frames[1:], wanted[1:])
	}
}

// namedBy understands
//
//	function           the name
//	function@file:4    the name, and the place; only the last element of the path counts
//	module+0x          no name: an offset in a module, the last element of its path
//	<signal>           the kernel's call of a signal handler
func namedBy(f *stackFrame, wanted string) bool {
	for spelling := range strings.SplitSeq(wanted, "|") {
		name, place, placed := strings.Cut(spelling, "@")
		module, nameless := strings.CutSuffix(spelling, "+0x")
		switch {
		case spelling == "<signal>":
			if f.Kind == "signal" {
				return true
			}
		case nameless:
			if f.Function == "" && filepath.Base(f.Module) == module && f.Offset != 0 {
				return true
			}
		case f.Function == name && (!placed || place == filepath.Base(f.File)+":"+strconv.Itoa(f.Line)):
			return true
		}
	}
	return false
}

// The matcher is what every other test here believes.
func TestWant(t *testing.T) {
	frames := func(names ...string) (all []stackFrame) {
		for _, name := range names {
			f := stackFrame{Function: name, Kind: "native"}
			switch name {
			case "?":
				f = stackFrame{Module: "/srv/prog", Offset: 7, Kind: "native"}
			case "py":
				f = stackFrame{Function: name, File: "/srv/a.py", Line: 3, Kind: "python"}
			case "sig":
				f = stackFrame{Function: "whatever", Kind: "signal"}
			case "user":
				f.User = true
			}
			all = append(all, f)
		}
		return all
	}
	complete := func(names ...string) *stack { return &stack{Frames: frames(names...), Quality: "complete"} }
	for _, tt := range []struct {
		want want
		got  *stack
		ok   bool
	}{
		{want{frames: []string{"a", "b"}}, complete("a", "b", "c"), true},
		{want{frames: []string{"a", "c"}}, complete("a", "b", "c"), false},
		{want{frames: []string{"b"}}, complete("a", "b"), false},
		{want{frames: []string{"a", anything, "c"}}, complete("a", "c"), true},
		{want{frames: []string{"a", anything, "c", "d"}}, complete("a", "c", "b", "c", "d"), true},
		{want{frames: []string{"a", anything, "c", "d"}}, complete("a", "c", "b", "c"), false},
		{want{frames: []string{anything, "b"}}, complete("a"), false},
		{want{frames: []string{"a", "b"}}, complete("a"), false},
		{want{frames: []string{"x|a"}}, complete("a"), true},
		{want{frames: []string{"prog+0x"}}, complete("?"), true},
		{want{frames: []string{"prog+0x"}}, complete("a"), false},
		{want{frames: []string{"other+0x"}}, complete("?"), false},
		{want{frames: []string{"py@a.py:3"}}, complete("py"), true},
		{want{frames: []string{"py@a.py:4"}}, complete("py"), false},
		{want{frames: []string{"py", "b"}}, complete("py", "a", "b"), false},
		{want{frames: []string{"py", "py"}, kinds: []string{"python"}}, complete("py", "a", "py"), true},
		{want{frames: []string{"<signal>"}}, complete("sig"), true},
		{want{frames: []string{"<signal>"}}, complete("a"), false},
		{want{frames: []string{"a"}, quality: "guessed"}, complete("a"), false},
		{want{frames: []string{"a"}}, &stack{Frames: frames("a"), Quality: "truncated"}, false},
		{want{frames: []string{"a"}}, nil, false},
		{want{user: "user"}, complete("a", "user"), true},
		{want{user: "user"}, complete("a"), false},
		{want{user: "user"}, complete("user", "user"), false},
	} {
		tt.want.slot = "eof"
		if text := tt.want.check(stacks{"eof": tt.got}); (text == "") != tt.ok {
			t.Errorf("%v: %q on\n%v", tt.want, text, tt.got)
		}
	}
}

// TestStacks runs real programs under one agent and compares the stacks of their sockets
// with what their sources say.
func TestStacks(t *testing.T) {
	l := newLab(t)
	// Alone: it is about one process that makes it hard.
	t.Run("storm", func(t *testing.T) { l.storm(t) })
	for name, group := range map[string]func(*testing.T){
		"c": l.native, "hostile": l.hostile, "servers": l.servers, "gdb": l.oracles,
		"go": l.golang, "rust": l.rust, "python": l.python, "node": l.node, "java": l.java,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			group(t)
		})
	}
}
