package dynsym

import (
	"github.com/tcpwaitd/tcpwaitd/internal/object"
)

// Module is a file that exports symbols, and where one process has it.
type Module struct {
	Object *object.Object
	// Bias is what to add to the virtual addresses of the file.
	Bias  uint64
	table *Table
}

// Modules returns the files with code that a process maps and that export symbols, by
// address: the program itself before the libraries. Files that are not ELF or that cannot
// be read are not among them.
func Modules(p *object.Process) []Module {
	var modules []Module
	seen := map[*object.Object]bool{}
	for i := range p.Maps {
		m := &p.Maps[i]
		if m.Object == nil || m.Object.File == nil || seen[m.Object] {
			continue
		}
		seen[m.Object] = true
		t, err := Open(m.Object.File)
		if err != nil {
			continue
		}
		if bias, ok := t.Bias(m.Start, m.Offset); ok {
			modules = append(modules, Module{Object: m.Object, Bias: bias, table: t})
		}
	}
	return modules
}

// Address returns where the process has an exported symbol.
func (m *Module) Address(name string) (uint64, bool) {
	value, ok := m.table.Lookup(name)
	return m.Bias + value, ok
}

// Resolve returns where the first module that exports a symbol has it. That is the one all
// modules use: the program can hold the library's variable (copy relocation).
func Resolve(modules []Module, name string) (uint64, bool) {
	for i := range modules {
		if at, ok := modules[i].Address(name); ok {
			return at, true
		}
	}
	return 0, false
}
