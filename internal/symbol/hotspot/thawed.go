package hotspot

import "github.com/tcpwaitd/tcpwaitd/internal/symbol"

// Thawed reports whether a stack, innermost frame first, is that of a virtual thread whose
// outer frames are not on it.
//
// A virtual thread that waited has its frames in the heap. When it goes on, only the
// innermost one or two are put on the stack of the thread that carries it; the others
// follow when those return. A walk finds these, and then the frames of the carrier: true
// ones, but between both is a gap. There is none where the frame that starts every
// continuation stands before those of the carrier.
func Thawed(stack []symbol.Frame) bool {
	for i := range stack {
		if stack[i].Kind != symbol.Java {
			continue
		}
		switch stack[i].Function {
		case "jdk.internal.vm.Continuation.enter", "jdk.internal.vm.Continuation.enter0",
			"java.lang.VirtualThread.run":
			return false
		case "jdk.internal.vm.Continuation.enterSpecial", "jdk.internal.vm.Continuation.run",
			"java.lang.VirtualThread.runContinuation":
			return true
		}
	}
	return false
}
