// Package hotspot finds a HotSpot JVM in a process, tells where it keeps its code, and
// names the Java frames of a stack from the memory of the process. No agent, no option of
// the JVM and no file that it writes is needed.
//
// All offsets come from the JVM itself: libjvm.so exports gHotSpotVMStructs and its
// sisters, tables that name every field which an outside debugger needs. They are read
// once (Detect). A table that lacks a field which is needed, or whose values cannot be,
// is an error: the frames of that process stay without names, they do not get wrong ones.
//
// Names are read after the event, while the process runs on. Methods can have been
// unloaded and compiled code can have been flushed since, and the memory can serve
// something else. So nothing is believed that does not hold together: a compiled frame
// must return to a place that its code knows as a call, a method must lead to a constant
// pool whose tags say that its name is a name, and the name must be one that Java allows.
// What is left: a class unloaded and another loaded at the very same addresses between
// event and reading.
//
// What a compiled frame stands for can be expanded: methods that C1 or C2 inlined are
// frames of their own, with lines (Names). A frame that is being deoptimized has lost the
// inlined ones. Interpreted frames have no line: the kernel side does not carry the
// bytecode pointer.
//
// Tried with OpenJDK 17.0.15 and Temurin 25.0.3, interpreted, C1, C2, one and three code
// heaps, and every collector they have. JDK 21 was not run; according to its source it
// describes itself as 17 does. 23 and 24 keep what they know of calls in ways that are not
// read: no inlined methods there. Older than 17 is refused. OpenJ9 and GraalVM native
// images are other machines: the first is an error, the second is not found.
package hotspot
