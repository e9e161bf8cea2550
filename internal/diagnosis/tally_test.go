package diagnosis

import (
	"reflect"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// What the kernel counted weighs as much as what was told one by one, and is not kept.
func TestShortWaitsWeighTheSame(t *testing.T) {
	from := event.KTime(7 * time.Second)
	owner := event.Task{Pid: 23, Start: 5, Comm: event.MakeComm("nc")}
	site := Site{event.Out, 443}
	told, counted := NewTally(from), NewTally(from)
	for _, tally := range []*Tally{told, counted} {
		tally.Add(owner, site, from.Add(time.Second), time.Hour)
	}
	unchanged := told.Closed()
	for range 22 {
		told.Add(owner, site, from.Add(time.Second), 100*time.Microsecond)
	}
	told.Add(owner, site, from.Add(time.Second), event.ShortWait-1)
	short := event.ShortWaits{Owner: owner, Direction: event.Out, Port: 443, N: 23, Longest: event.ShortWait - 1}
	if got, want := counted.Closed(short), told.Closed(); !reflect.DeepEqual(got, want) {
		t.Errorf("counted: %+v\ntold: %+v", got, want)
	}
	if reflect.DeepEqual(unchanged, told.Closed()) {
		t.Error("nothing was added")
	}
	// One more of nobody, nowhere.
	if got := len(counted.Closed(short, event.ShortWaits{N: 7, Longest: 1})); got != 2 {
		t.Errorf("%d entries, want 2", got)
	}
	if got := counted.Closed(); !reflect.DeepEqual(got, unchanged) {
		t.Errorf("what was counted elsewhere was kept: %+v", got)
	}
}
