package diagnosis

import (
	"iter"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Cases are explained sockets by number. A million of them may be made only when they are
// asked for.
type Cases interface {
	Len() int
	// At returns one, valid until the next call.
	At(i int) *Case
	// Again returns the same cases for another goroutine.
	Again() Cases
	// Dwell is that of the socket and whether it is known; it costs less than At, and may be
	// asked for by another goroutine meanwhile.
	Dwell(i int) (d time.Duration, known bool)
}

// CaseList are cases that are all there.
type CaseList []Case

// Len implements Cases.
func (l CaseList) Len() int { return len(l) }

// At implements Cases; what it returns stays valid.
func (l CaseList) At(i int) *Case { return &l[i] }

// Again implements Cases.
func (l CaseList) Again() Cases { return l }

// Dwell implements Cases.
func (l CaseList) Dwell(i int) (time.Duration, bool) {
	return l[i].Dwell(), l[i].Bound != event.BoundUnknown
}

// All goes through cases; each is valid until the next.
func All(cases Cases) iter.Seq[*Case] {
	return func(yield func(*Case) bool) {
		for i := range cases.Len() {
			if !yield(cases.At(i)) {
				return
			}
		}
	}
}

// Collect copies the cases that f wants.
func Collect(cases Cases, f func(*Case) bool) CaseList {
	var list CaseList
	for c := range All(cases) {
		if f(c) {
			list = append(list, *c)
		}
	}
	return list
}
