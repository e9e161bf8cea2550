package e2e

import (
	"slices"
	"strings"
	"testing"
)

// Five workers that accept from one socket, and two of them leak (rate-ukma#609): these two
// are named, each with its number.
func TestScenario09UnevenWorkers(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	x := s.serve(t, python(t), source(t, program("prefork.py")), "PORT")
	bad, good := x.pidsSaid(t, "bad", 2), x.pidsSaid(t, "good", 3)
	leaks, served := map[int]int{}, map[int]int{}
	total := 0
	v := s.grow(t, func(int) {
		// Who accepts is the kernel's choice.
		for before := total; total == before; {
			c := s.dial(t, x.port)
			worker := int(number(t, strings.TrimSpace(c.say(t, "GET /\n"))))
			switch {
			case slices.Contains(bad, worker):
				c.Close()
				leaks[worker]++
				total++
			case slices.Contains(good, worker):
				c.hangUp(t)
				served[worker]++
			default:
				t.Fatalf("answer of a stranger, pid %d", worker)
			}
		}
		s.awaitWaits(t, total, x.port, 1)
	})
	if len(leaks) != 2 || len(served) == 0 {
		t.Fatalf("bad workers served %v, good ones %v", leaks, served)
	}
	var want []accusation
	for pid, count := range leaks {
		want = append(want, accusation{pid, "unread_eof", "in", count})
		if p := v.of(t, pid); p.Verdict != "suspicious" || p.Sockets != count {
			t.Errorf("pid %d is %s with %d sockets, want suspicious with %d", pid, p.Verdict, p.Sockets, count)
		}
	}
	// Not more than a pool can have.
	v.demand(t, "suspicious", want...)
	s.checkList(t, n)
}
