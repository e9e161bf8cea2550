package symbol

import (
	"testing"
	"time"
)

func TestGuard(t *testing.T) {
	var g guard
	if got, ok := guarded(&g, func() int { return 7 }); got != 7 || !ok {
		t.Errorf("got %d, %v", got, ok)
	}
	if got, ok := guarded(&g, func() int { panic("hostile file") }); got != 0 || ok {
		t.Errorf("panic: got %d, %v", got, ok)
	}
	if got, ok := guarded(&g, func() int { return 8 }); got != 8 || !ok {
		t.Errorf("after a panic: got %d, %v", got, ok)
	}
}

// TestGuardStuck: what does not answer costs its own names, and only until it does.
func TestGuardStuck(t *testing.T) {
	g := guard{limit: time.Millisecond}
	release, released := make(chan bool), make(chan bool)
	if _, ok := guarded(&g, func() int { <-release; close(released); return 1 }); ok {
		t.Fatal("did not wait")
	}
	if _, ok := guarded(&g, func() int { t.Error("ran meanwhile"); return 2 }); ok {
		t.Error("ran meanwhile")
	}
	close(release)
	<-released
	for g.stuck.Load() {
		time.Sleep(time.Millisecond)
	}
	g.limit = 0
	if got, ok := guarded(&g, func() int { return 3 }); got != 3 || !ok {
		t.Errorf("afterwards: got %d, %v", got, ok)
	}
}
