package filter

import (
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/owner"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// A container is chosen by the beginning of its id, by its name or by a glob over that, and
// it may be the socket's or the owner's.
func TestContainers(t *testing.T) {
	const id, other = "cafe5ec5e4a4", "00005ec5e4a4"
	facts := &record.Facts{
		Containers: map[string]record.Names{id: {ContainerName: "web/1"}, other: {ContainerName: "db"}},
		Cgroups:    map[uint64]record.Cgroup{1: {Container: other}},
		Processes:  map[uint32]*owner.Process{7: {Container: id}},
	}
	c := &diagnosis.Case{Socket: event.Socket{Cgroup: 1}, Blamed: event.Task{Pid: 7}}
	for _, tt := range []struct {
		asked string
		owns  bool // the case
		tail  bool // a transition of the same group, whose owner is not looked up
		names bool
	}{
		{"cafe", true, false, false},
		{id, true, false, false},
		{"cafe5ec5e4a40", false, false, false},
		{"0000", true, true, false},
		{"afe", false, false, false},
		{"web/1", true, false, true},
		{"web", false, false, true},
		{"web*", true, false, true},
		{"*1", true, false, true},
		{"[dx]b", true, true, true},
		{"nobody,db", true, true, true},
		{"d", false, false, false},
		{"*", true, true, true},
	} {
		f, err := New(&Options{Containers: []string{tt.asked}}, Sockets)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.MatchCase(c, facts); got != tt.owns {
			t.Errorf("%s: socket %v, want %v", tt.asked, got, tt.owns)
		}
		if got := f.MatchTransition(&event.Transition{}, record.Cgroup{Container: other, Name: "db"}); got != tt.tail {
			t.Errorf("%s: transition %v, want %v", tt.asked, got, tt.tail)
		}
		if f.NeedsNames() != tt.names {
			t.Errorf("%s: needs names %v", tt.asked, f.NeedsNames())
		}
	}
	// Nobody's socket in no container is not "*".
	f, err := New(&Options{Containers: []string{"*"}}, Sockets)
	if err != nil {
		t.Fatal(err)
	}
	if f.MatchCase(&diagnosis.Case{}, &record.Facts{}) {
		t.Error("chosen without a container")
	}
	for _, bad := range []string{"", "a,", "[", "a[b-"} {
		if _, err := New(&Options{Containers: []string{bad}}, Sockets); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
