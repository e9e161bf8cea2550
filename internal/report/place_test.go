package report

import (
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/owner"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

const (
	placeID  = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	placeUID = "0f3d2a6b-7c1e-4b52-9d4e-1a2b3c4d5e6f"
)

func TestPlaceText(t *testing.T) {
	web := record.Names{ContainerName: "web", PodName: "cart-1", PodNamespace: "shop"}
	for _, tt := range []struct {
		s    record.Suspect
		want string
	}{
		{record.Suspect{}, ""},
		{record.Suspect{Unit: "a.service"}, "unit a.service"},
		{record.Suspect{Container: placeID, Pod: placeUID}, "container " + placeID + ", pod " + placeUID},
		{record.Suspect{Container: placeID, Pod: placeUID, Names: web}, "container web (0123456789ab), pod shop/cart-1"},
		{record.Suspect{Pod: placeUID, Names: record.Names{PodName: "cart-1", PodNamespace: "shop"}}, "pod shop/cart-1"},
		{record.Suspect{Unit: "web.service", Container: "debian"}, "unit web.service, container debian"},
	} {
		if got := placeText(&tt.s); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.s, got, tt.want)
		}
	}
}

// The column has the owner's container before the socket's, and a name before an id.
func TestContainerColumn(t *testing.T) {
	c := &diagnosis.Case{Socket: event.Socket{Cgroup: 1}, Blamed: event.Task{Pid: 7}}
	for _, tt := range []struct {
		facts record.Facts
		want  string
	}{
		{record.Facts{}, ""},
		{record.Facts{Cgroups: map[uint64]record.Cgroup{1: {Container: placeID}}}, placeID[:12]},
		{record.Facts{
			Cgroups:    map[uint64]record.Cgroup{1: {Container: placeID}},
			Containers: map[string]record.Names{placeID: {ContainerName: "web\x1b"}},
		}, `web\x1b`},
		{record.Facts{
			Cgroups:   map[uint64]record.Cgroup{1: {Container: placeID}},
			Processes: map[uint32]*owner.Process{7: {Container: "a-name-of-lxc-\x1b"}},
		}, `a-name-of-lxc-\x1b`},
	} {
		if got := string(appendContainer(nil, &socketRow{c: c, facts: &tt.facts})); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.facts, got, tt.want)
		}
	}
}
