package symbol

import (
	"cmp"
	"sync"
	"sync/atomic"
	"time"
)

// foreignTimeout is how long reading foreign files may take in one go. A file can be on a
// network or user-space file system that does not answer; then its frames have no names.
const foreignTimeout = 10 * time.Second

// guard lets one at a time read what others may have made to hurt.
type guard struct {
	mu sync.Mutex
	// limit is how long it may take, 0 means foreignTimeout.
	limit time.Duration
	// stuck: somebody reads for longer than that, and still does.
	stuck atomic.Bool
}

// guarded runs fn alone under the guard and returns its result. What panics or takes too
// long gives the zero value and false. fn then goes on alone, so it must hand its findings
// over by its result only.
func guarded[T any](g *guard, fn func() T) (result T, ok bool) {
	if g.stuck.Load() {
		return result, false
	}
	type answer struct {
		value T
		ok    bool
	}
	done := make(chan answer, 1)
	go func() {
		var a answer
		defer func() {
			if recover() != nil {
				a = answer{}
			}
			done <- a
		}()
		g.mu.Lock()
		defer g.mu.Unlock()
		defer g.stuck.Store(false)
		a.value = fn()
		a.ok = true
	}()
	timer := time.NewTimer(cmp.Or(g.limit, foreignTimeout))
	defer timer.Stop()
	select {
	case a := <-done:
		return a.value, a.ok
	case <-timer.C:
		g.stuck.Store(true)
		return result, false
	}
}
