// Package v8 knows the V8 of Node.js 18 to 24 in a process, and names JavaScript functions
// by the JSFunction objects that their frames hold.
//
// Nothing is asked of the program: it needs no flags. V8 exports what its objects look like
// for debuggers (the constants v8dbg_*). Names are read some time after the event, and the
// collector moves objects: what is not what it should be has no name. Where the collector
// has since put another function in a function's place, the other one is named; that takes
// two collections in between, and nothing in memory tells.
//
// Functions that the optimizing compilers inlined have no frame of their own.
package v8

import (
	"errors"
	"fmt"
	"sync"

	"github.com/tcpwaitd/tcpwaitd/internal/object"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol/python/dynsym"
)

// Runtime is the V8 of one process. Any number of goroutines may use it.
type Runtime struct {
	heap heap

	mu    sync.Mutex
	known map[value]function // by the address of the SharedFunctionInfo
}

// marker is the constant that tells that there is a V8.
const marker = "v8dbg_class_JSFunction__shared__SharedFunctionInfo"

// Detect looks for V8 in a process. It returns nil, nil where there is none, and an error
// that says why where there is one that cannot be read.
func Detect(p *object.Process) (*Runtime, error) {
	modules := dynsym.Modules(p)
	for i := range modules {
		if _, ok := modules[i].Address(marker); !ok {
			continue
		}
		r := &Runtime{known: map[value]function{}}
		r.heap.memory = p.Memory
		if err := r.heap.readConstants(&modules[i]); err != nil {
			return nil, fmt.Errorf("V8 in %s: %w", modules[i].Object.Path, err)
		}
		return r, nil
	}
	return nil, nil //nolint:nilnil // no V8 is the usual answer, and no error
}

// constants are the values of v8dbg_* that are used here.
type constants struct {
	// Offsets in objects, in bytes.
	heapObjectMap, mapInstanceType           int32
	functionShared                           int32
	sharedName, sharedScript, scriptName     int32
	stringLength, oneByteChars, twoByteChars int32
	consFirst, consSecond, thinActual        int32
	slicedParent, slicedOffset               int32

	// Indexes of words in a ScopeInfo.
	scopeLocals, scopeFirst int32

	// Instance types.
	typeFunction, typeMap, typeScript, typeScope, typeShared, typeOddball int32

	// Bits of the instance types of strings, and their values.
	notStringMask, representationMask, encodingMask int32
	sequential, cons, sliced, thin, oneByte         int32

	// How pointers and integers are told apart.
	heapObjectTag, heapObjectMask, taggedSize int32
	smiShift, smiTagSize                      int32
}

// named lists where each constant comes from, without v8dbg_. The names of some changed:
// those of V8 10 and 11 (Node 18 and 20) come first, of 12 (22) and 13 (24) then.
func (c *constants) named() map[*int32][]string {
	return map[*int32][]string{
		&c.heapObjectMap:   {"class_HeapObject__map__Map"},
		&c.mapInstanceType: {"class_Map__instance_type__uint16_t"},
		&c.functionShared:  {"class_JSFunction__shared__SharedFunctionInfo"},
		&c.sharedName: {
			"class_SharedFunctionInfo__name_or_scope_info__Object",
			"class_SharedFunctionInfo__name_or_scope_info__Tagged_Object_",
			"class_SharedFunctionInfo__name_or_scope_info__Tagged_NameOrScopeInfoT_",
		},
		&c.sharedScript: {
			"class_SharedFunctionInfo__script_or_debug_info__HeapObject",
			"class_SharedFunctionInfo__script__Tagged_HeapObject_",
		},
		&c.scriptName:         {"class_Script__name__Object"},
		&c.stringLength:       {"class_String__length__int32_t"},
		&c.oneByteChars:       {"class_SeqOneByteString__chars__char"},
		&c.twoByteChars:       {"class_SeqTwoByteString__chars__char"},
		&c.consFirst:          {"class_ConsString__first__String"},
		&c.consSecond:         {"class_ConsString__second__String"},
		&c.thinActual:         {"class_ThinString__actual__String"},
		&c.slicedParent:       {"class_SlicedString__parent__String"},
		&c.slicedOffset:       {"class_SlicedString__offset__SMI"},
		&c.scopeLocals:        {"scopeinfo_idx_ncontextlocals"},
		&c.scopeFirst:         {"scopeinfo_idx_first_vars"},
		&c.typeFunction:       {"type_JSFunction__JS_FUNCTION_TYPE"},
		&c.typeMap:            {"type_Map__MAP_TYPE"},
		&c.typeScript:         {"type_Script__SCRIPT_TYPE"},
		&c.typeScope:          {"type_ScopeInfo__SCOPE_INFO_TYPE"},
		&c.typeShared:         {"type_SharedFunctionInfo__SHARED_FUNCTION_INFO_TYPE"},
		&c.typeOddball:        {"type_Oddball__ODDBALL_TYPE"},
		&c.notStringMask:      {"IsNotStringMask"},
		&c.representationMask: {"StringRepresentationMask"},
		&c.encodingMask:       {"StringEncodingMask"},
		&c.sequential:         {"SeqStringTag"},
		&c.cons:               {"ConsStringTag"},
		&c.sliced:             {"SlicedStringTag"},
		&c.thin:               {"ThinStringTag"},
		&c.oneByte:            {"OneByteStringTag"},
		&c.heapObjectTag:      {"HeapObjectTag"},
		&c.heapObjectMask:     {"HeapObjectTagMask"},
		&c.taggedSize:         {"TaggedSize"},
		&c.smiShift:           {"SmiShiftSize"},
		&c.smiTagSize:         {"SmiValueShift"},
	}
}

// maxIndex bounds the indexes of words in a ScopeInfo; 5 is the largest seen.
const maxIndex = 6

func (c *constants) offsets() []int32 {
	return []int32{
		c.heapObjectMap, c.mapInstanceType, c.functionShared, c.sharedName, c.sharedScript,
		c.scriptName, c.stringLength, c.oneByteChars, c.twoByteChars, c.consFirst,
		c.consSecond, c.thinActual, c.slicedParent, c.slicedOffset,
	}
}

// check refuses what the rest of the package does not do.
func (c *constants) check() error {
	const tag, mask, shift = 1, 3, 32
	switch {
	case c.taggedSize != wordSize:
		return errors.New("compressed pointers: not supported")
	case c.heapObjectTag != tag || c.heapObjectMask != mask || c.smiShift+c.smiTagSize != shift:
		return errors.New("unknown tags of pointers")
	case min(c.scopeLocals, c.scopeFirst) < 0 || max(c.scopeLocals, c.scopeFirst) > maxIndex:
		return errors.New("unknown ScopeInfo")
	}
	for _, o := range c.offsets() {
		if o < 0 || o > headSize-wordSize {
			return fmt.Errorf("offset %d cannot be one", o)
		}
	}
	return nil
}
