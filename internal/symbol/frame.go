// Package symbol turns the frames of a stack into names. It reads foreign files and
// foreign memory, and trusts neither: what cannot be read costs names, nothing else.
package symbol

// Kind is the language world a frame belongs to.
type Kind string

// The kinds as records spell them.
const (
	Native Kind = "native"
	Go     Kind = "go"
	Python Kind = "python"
	Java   Kind = "java"
	JS     Kind = "js"
	// JIT is code in memory without a name for it.
	JIT Kind = "jit"
	// Signal is the kernel's call of a signal handler.
	Signal Kind = "signal"
)

// Frame is one frame with what is known of it. Strings come from foreign files and memory;
// they are not escaped.
type Frame struct {
	// Function is the canonical name, "" unknown.
	Function string
	// File and Line are the source position, "" and 0 unknown.
	File string
	Line int
	// Module is the path of the file the code is in, as its process sees it; "" for code
	// without a file.
	Module string
	// Offset is the address in Module as addr2line and objdump take it (the ELF virtual
	// address); for code without a file the address in the process.
	Offset uint64
	Kind   Kind
}
