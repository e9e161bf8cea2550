package hotspot

import (
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
)

func TestThawed(t *testing.T) {
	java := func(names ...string) []symbol.Frame {
		var stack []symbol.Frame
		for _, n := range names {
			stack = append(stack, symbol.Frame{Function: n, Kind: symbol.Java})
		}
		return stack
	}
	for name, tt := range map[string]struct {
		stack []symbol.Frame
		want  bool
	}{
		"a platform thread": {java("a.B.c", "java.lang.Thread.run"), false},
		"complete": {java("a.B.c", "java.lang.VirtualThread.run", "jdk.internal.vm.Continuation.enter0",
			"jdk.internal.vm.Continuation.enter", "jdk.internal.vm.Continuation.enterSpecial",
			"jdk.internal.vm.Continuation.run", "java.lang.VirtualThread.runContinuation"), false},
		"gap":                   {java("a.B.c", "jdk.internal.vm.Continuation.run", "java.lang.VirtualThread.runContinuation"), true},
		"gap, run inlined":      {java("a.B.c", "java.lang.VirtualThread.runContinuation"), true},
		"the carrier's own":     {java("java.util.concurrent.ForkJoinWorkerThread.run"), false},
		"C++ with such a name":  {[]symbol.Frame{{Function: "java.lang.VirtualThread.runContinuation", Kind: symbol.Native}}, false},
		"nothing":               {nil, false},
		"virtual thread begins": {java("java.lang.VirtualThread.run", "jdk.internal.vm.Continuation.run"), false},
	} {
		if got := Thawed(tt.stack); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
