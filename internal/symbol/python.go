package symbol

import (
	"slices"
	"strings"
)

// evalFrame is CPython's interpreter loop: it runs a run of Python frames, from one that C
// code called down to the innermost one.
const evalFrame = "_PyEval_EvalFrameDefault"

func isEvalFrame(f *Frame) bool {
	rest, ok := strings.CutPrefix(f.Function, evalFrame)
	return ok && f.Kind == Native && (rest == "" || rest[0] == '.')
}

// mergePython puts runs of Python frames in the places of the interpreter frames that ran
// them, both innermost first. Where native frames are missing at the outer end there are
// runs left over: they follow the last interpreter frame, or all native frames if there is
// none of those.
func mergePython(native []Frame, runs [][]Frame) []Frame {
	if len(runs) == 0 {
		return native
	}
	var merged []Frame
	last := -1 // where the last interpreter frame was
	for i := range native {
		if !isEvalFrame(&native[i]) {
			merged = append(merged, native[i])
			continue
		}
		if len(runs) > 0 && len(runs[0]) > 0 {
			merged = append(merged, runs[0]...)
		} else {
			merged = append(merged, native[i])
		}
		runs = runs[min(1, len(runs)):]
		last = len(merged)
	}
	if last < 0 {
		last = len(merged)
	}
	return slices.Insert(merged, last, slices.Concat(runs...)...)
}
