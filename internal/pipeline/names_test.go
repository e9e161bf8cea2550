package pipeline

import (
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/owner"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

func TestSpaceName(t *testing.T) {
	const (
		web     = "4d5ec5e4a4bcd3a1cd0ba4e4a1d6a3f1c1b0e7a05c8ee4e4b9a0b5d9a7c6e501"
		sidecar = "00000000a4bcd3a1cd0ba4e4a1d6a3f1c1b0e7a05c8ee4e4b9a0b5d9a7c6e502"
		foreign = "11111111a4bcd3a1cd0ba4e4a1d6a3f1c1b0e7a05c8ee4e4b9a0b5d9a7c6e503"
		cart    = "0f3d2a6b-7c1e-4b52-9d4e-1a2b3c4d5e6f"
		till    = "ff3d2a6b-7c1e-4b52-9d4e-1a2b3c4d5e6f"
	)
	facts := &record.Facts{
		Containers: map[string]record.Names{
			web:     {ContainerName: "web", PodName: "cart-1", PodNamespace: "shop"},
			sidecar: {ContainerName: "a\x1bb"},
		},
		Pods: map[string]record.Names{cart: {PodName: "cart-1", PodNamespace: "shop"}},
	}
	group := func(container, pod string) owner.Cgroup { return owner.Cgroup{Container: container, Pod: pod} }
	for _, tt := range []struct {
		name   string
		groups []owner.Cgroup
		want   string
	}{
		{"nobody", nil, ""},
		{"a pod", []owner.Cgroup{group(web, cart)}, "pod shop/cart-1"},
		{"a pod by its uid", []owner.Cgroup{group(foreign, cart)}, "pod shop/cart-1"},
		{"a pod without a name", []owner.Cgroup{group(foreign, till)}, "pod " + till},
		{"containers of a pod", []owner.Cgroup{group(foreign, cart), group(sidecar, cart), group(web, cart)}, "pod shop/cart-1"},
		{"two pods", []owner.Cgroup{group(web, cart), group(foreign, till)}, ""},
		{"a container by name", []owner.Cgroup{group(sidecar, "")}, `container a\x1bb`},
		{"a container by id", []owner.Cgroup{group(foreign, "")}, "container " + foreign[:12]},
		{"a container of LXC", []owner.Cgroup{group("a-name-that-is-long", "")}, "container a-name-that-is-long"},
		{"two containers", []owner.Cgroup{group(foreign, ""), group(sidecar, "")}, ""},
		{"a pod and another container", []owner.Cgroup{group(web, cart), group(foreign, "")}, ""},
	} {
		if got := spaceName(tt.groups, facts); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
