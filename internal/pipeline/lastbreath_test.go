package pipeline

import (
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
)

// The stacks are those that real programs had; see TestExecLastBreath.
func TestWhoClosed(t *testing.T) {
	native := func(names ...string) (frames []record.Frame) {
		for _, name := range names {
			frames = append(frames, record.Frame{Function: name, Kind: "native", Module: "/usr/bin/program"})
		}
		return frames
	}
	in := func(module string, names ...string) []record.Frame {
		frames := native(names...)
		for i := range frames {
			frames[i].Module = module
		}
		return frames
	}
	python := func(names ...string) (frames []record.Frame) {
		for _, name := range names {
			frames = append(frames, record.Frame{Function: name, Kind: "python"})
		}
		return frames
	}
	libc := func(names ...string) []record.Frame { return in("/usr/lib/x86_64-linux-gnu/libc.so.6", names...) }
	join := func(parts ...[]record.Frame) (frames []record.Frame) {
		for _, p := range parts {
			frames = append(frames, p...)
		}
		return frames
	}
	final := native("Py_FinalizeEx", "Py_RunMain", "Py_BytesMain")
	main := libc("__libc_start_call_main", "__libc_start_main")
	for name, tt := range map[string]struct {
		frames  []record.Frame
		quality event.Quality
		want    agent
	}{
		"finalize_modules":    {join(libc("close"), native("sock_finalize", "finalize_modules"), final, main), event.QualityComplete, agentExit},
		"part of a function":  {join(libc("close"), native("sock_finalize", "Py_FinalizeEx.part.0"), main), event.QualityComplete, agentExit},
		"truncated":           {join(libc("close"), native("sock_finalize"), final), event.QualityTruncated, agentExit},
		"__del__":             {join(libc("close"), python("Owner.__del__"), native("slot_tp_finalize"), final, main), event.QualityComplete, agentExit},
		"__del__, no name":    {join(libc("close"), python(""), native("slot_tp_finalize"), final, main), event.QualityComplete, agentExit},
		"__del__ before":      {join(libc("close"), python("Owner.__del__", "main"), native("Py_RunMain"), main), event.QualityComplete, agentProgram},
		"atexit":              {join(libc("close"), python("close_all"), native("atexit_callfuncs"), final, main), event.QualityComplete, agentProgram},
		"close in Python":     {join(libc("close"), native("sock_close"), python("main"), native("Py_RunMain"), main), event.QualityComplete, agentProgram},
		"an exit in Python":   {join(libc("close"), python("exit", "main"), native("Py_RunMain"), main), event.QualityComplete, agentProgram},
		"destructor":          {join(libc("close"), native("~vector"), libc("__run_exit_handlers", "exit"), main), event.QualityComplete, agentExit},
		"nameless destructor": {join(libc("close"), native(""), libc("__run_exit_handlers", "exit"), main), event.QualityComplete, agentExit},
		"end of main":         {join(libc("close"), native("main"), main), event.QualityComplete, agentProgram},
		"nameless main":       {join(libc("close"), native(""), main), event.QualityComplete, agentProgram},
		"cut":                 {join(libc("close"), native("")), event.QualityTruncated, agentUnknown},
		"frame pointers":      {join(libc("close"), native("main"), main), event.QualityFPOnly, agentUnknown},
		"static, nameless":    {native("", "", ""), event.QualityComplete, agentUnknown},
		"Ruby, nameless":      {join(libc("close"), in("/usr/lib/libruby-3.1.so.3.1", "", ""), main), event.QualityComplete, agentUnknown},
		"Ruby":                {join(libc("close"), in("/usr/lib/libruby-3.1.so.3.1", "", "ruby_cleanup"), main), event.QualityComplete, agentExit},
		"no frames":           {nil, event.QualityNone, agentUnknown},
	} {
		s := &record.Stack{Frames: tt.frames, Quality: tt.quality.String()}
		if got := agentOf(s); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
	if got := agentOf(nil); got != agentUnknown {
		t.Errorf("no stack: %d", got)
	}
}

// What is not known of a close() that came long before the end is a close.
func TestLateCloseWithoutStack(t *testing.T) {
	x := &execution{watched: &watched{}}
	for _, tt := range []struct {
		before event.KTime
		want   diagnosis.LateClose
	}{
		{0, diagnosis.ClosedBeforeExit},
		{event.KTime(lastBreathUnseen), diagnosis.ClosedBeforeExit},
		{event.KTime(lastBreathUnseen) + 1, diagnosis.NotClosed},
	} {
		c := &closing{ended: ended{Case: diagnosis.Case{Socket: event.Socket{At: 1e12}}}}
		if got := x.lateClose(c, tracer.Relative{Ended: 1e12 + tt.before}); got != tt.want {
			t.Errorf("%d ns before the end: %v, want %v", tt.before, got, tt.want)
		}
	}
}
