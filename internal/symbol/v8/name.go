package v8

import (
	"encoding/binary"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol"
)

// anonymous is what a function without a name is called.
const anonymous = "(anonymous)"

// functionTypes is how many instance types functions have from JS_FUNCTION_TYPE on: those of
// class constructors, of Promise, RegExp, Array and the typed arrays follow it.
const functionTypes = 24

// maxKnown bounds the functions kept: 1 MB or so. Who has more reads some again.
const maxKnown = 4096

// function is what is known of a function, and the words of its SharedFunctionInfo by which
// it is known again.
type function struct {
	name, script value
	symbol       symbol.Frame
}

// Name names a frame whose Aux is a JSFunction. It reports false where it is none, or has
// been moved since.
func (r *Runtime) Name(f *event.Frame) (symbol.Frame, bool) {
	if f.Kind != event.FrameAnon && f.Kind != event.FrameFile {
		return symbol.Frame{}, false
	}
	shared, err := r.heap.shared(value(f.Aux))
	if err != nil {
		return symbol.Frame{}, false
	}
	found, err := r.function(shared)
	if err != nil {
		return symbol.Frame{}, false
	}
	// The collector may have been at work while we read.
	if again, err := r.heap.shared(value(f.Aux)); err != nil || again != shared {
		return symbol.Frame{}, false
	}
	return found.symbol, true
}

// shared returns the address of the SharedFunctionInfo of a JSFunction.
func (h *heap) shared(v value) (value, error) {
	o, err := h.head(v)
	if err != nil || o.kind < h.typeFunction || o.kind >= h.typeFunction+functionTypes {
		return 0, errNone
	}
	return o.field(h.functionShared)
}

// function returns what a SharedFunctionInfo says, from our memory if it still says the same.
func (r *Runtime) function(shared value) (function, error) {
	var f function
	o, err := r.heap.headOf(shared, r.heap.typeShared)
	if err != nil {
		return f, err
	}
	if f.name, err = o.field(r.heap.sharedName); err != nil {
		return f, err
	}
	if f.script, err = o.field(r.heap.sharedScript); err != nil {
		return f, err
	}
	r.mu.Lock()
	known, ok := r.known[shared]
	r.mu.Unlock()
	if ok && known.name == f.name && known.script == f.script {
		return known, nil
	}
	if f.symbol, err = r.heap.symbol(f.name, f.script); err != nil {
		return f, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.known) >= maxKnown {
		clear(r.known)
	}
	r.known[shared] = f
	return f, nil
}

// symbol reads the names a SharedFunctionInfo leads to.
func (h *heap) symbol(name, script value) (symbol.Frame, error) {
	function, err := h.functionName(name)
	if err != nil {
		return symbol.Frame{}, err
	}
	if function == "" {
		function = anonymous
	}
	file, err := h.fileName(script)
	if err != nil {
		return symbol.Frame{}, err
	}
	return symbol.Frame{Function: function, File: file, Kind: symbol.JS}, nil
}

// functionName reads name_or_scope_info: the name of a built-in or of a function that was not
// compiled yet; a ScopeInfo; or a small integer, of one without a name.
func (h *heap) functionName(v value) (string, error) {
	if v.smi() {
		return "", nil
	}
	o, err := h.head(v)
	switch {
	case err != nil:
		return "", err
	case h.isString(o.kind):
		return h.text(v)
	case o.kind == h.typeScope:
		return h.scopeName(v, &o)
	default:
		return "", errNone
	}
}

// Words of a ScopeInfo.
const (
	// maxLocals bounds the variables of one function; 65,535 is what V8 allows at most for
	// those of a context to be found fast.
	maxLocals = 1 << 16
	// inlineLocals is from how many on the names are in a hash table: one word
	// (kScopeInfoMaxInlinedLocalNamesSize).
	inlineLocals = 75
	// optionalWords is where the names can be: a class variable, the name and its slot, the
	// inferred name, two positions, the outer scope.
	optionalWords = 8
)

// scopeName returns the name of the function in its ScopeInfo: its own, else the one V8
// inferred from where it was assigned to ("Socket.connect"). After the names and the
// properties of the variables come words of which each is there or not by bits that mean
// something else in every version; the names are the only strings among them.
func (h *heap) scopeName(scope value, o *head) (string, error) {
	word := func(i int32) int32 { return wordSize + wordSize*i } // the first is the map
	count, err := o.field(word(h.scopeLocals))
	locals := count.integer()
	if err != nil || !count.smi() || locals < 0 || locals > maxLocals {
		return "", errNone
	}
	names := locals
	if locals >= inlineLocals {
		names = 1
	}
	first := word(h.scopeFirst + int32(names+locals))
	var words [optionalWords * wordSize]byte
	// The object can end before that. Then the map of the next one follows, or nothing.
	n, _ := h.memory.ReadAt(words[:], uint64(scope)-1+uint64(first))
	for i := 0; i+wordSize <= n; i += wordSize {
		v := value(binary.LittleEndian.Uint64(words[i:]))
		if v.smi() {
			continue
		}
		o, err := h.head(v)
		switch {
		case err != nil:
			return "", err
		case h.isString(o.kind):
			if name, err := h.text(v); err != nil || name != "" {
				return name, err
			}
		case o.kind != h.typeOddball: // the outer scope or the next object's map
			return "", nil
		}
	}
	return "", nil
}

// fileName returns the name of a Script, "" if it has none: a path, a URL, or "node:net".
// Built-ins have no script; with a debugger attached another object is in its place.
func (h *heap) fileName(script value) (string, error) {
	o, err := h.head(script)
	if err != nil || o.kind != h.typeScript {
		return "", err
	}
	name, err := o.field(h.scriptName)
	if err != nil {
		return "", err
	}
	if o, err := h.head(name); err != nil || o.kind == h.typeOddball {
		return "", err
	}
	return h.text(name)
}
