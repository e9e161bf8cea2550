package diagnosis

import (
	"reflect"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// What the kernel counted weighs as much as what was told one by one, and a copy of a tally is its
// own.
func TestShortWaitsWeighTheSame(t *testing.T) {
	from := event.KTime(7 * time.Second)
	owner := event.Task{Pid: 23, Start: 5, Comm: event.MakeComm("nc")}
	site := Site{event.Out, 443}
	told := NewTally(from)
	add := func(d time.Duration) { told.Add(owner, site, from.Add(time.Second), d) }
	add(time.Hour)
	counted := told.Clone()
	unchanged := told.Closed()
	for range 22 {
		add(100 * time.Microsecond)
	}
	add(event.ShortWait - 1)
	counted.AddShort(&event.ShortWaits{Owner: owner, Direction: event.Out, Port: 443, N: 23, Longest: event.ShortWait - 1})
	if got, want := counted.Closed(), told.Closed(); !reflect.DeepEqual(got, want) {
		t.Errorf("counted: %+v\ntold: %+v", got, want)
	}
	if reflect.DeepEqual(unchanged, told.Closed()) {
		t.Error("nothing was added")
	}
	// One more of nobody, nowhere.
	counted.AddShort(&event.ShortWaits{N: 7, Longest: 1})
	if got := len(counted.Closed()); got != 2 {
		t.Errorf("%d entries, want 2", got)
	}
	if got := len(told.Closed()); got != 1 {
		t.Errorf("the copy changed the original: %d entries", got)
	}
}
