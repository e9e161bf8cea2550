package filter

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

func mustNew(t *testing.T, o Options, target Target) *Filter {
	t.Helper()
	f, err := New(&o, target)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestKernel(t *testing.T) {
	o := Options{
		Pids: []string{"1,2", "3"}, Lports: []string{"80,8000-8100"}, Rports: []string{"443"}, IPv4: true,
		States: []string{"close-wait", "CLOSE_WAIT,last_ack"}, Direction: "in",
		Netns:      []string{"4026531840", "blue", "/proc/1/ns/net"},
		NetnsInode: func(path string) (uint32, error) { return uint32(len(path)), nil },
	}
	want := event.Filter{
		States: event.SetOf(event.CloseWait, event.LastAck),
		Lports: []event.PortRange{{From: 80, To: 80}, {From: 8000, To: 8100}},
		Rports: []event.PortRange{{From: 443, To: 443}},
		Family: 4, Netns: []uint32{4026531840, uint32(len("/run/netns/blue")), uint32(len("/proc/1/ns/net"))},
		Direction: event.In, Pids: []uint32{1, 2, 3},
	}
	if diff := cmp.Diff(want, mustNew(t, o, Transitions).Kernel()); diff != "" {
		t.Errorf("transitions (-want +got):\n%s", diff)
	}
	// A socket passed on by another process must reach us.
	want.Pids = nil
	if diff := cmp.Diff(want, mustNew(t, o, Sockets).Kernel(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("sockets (-want +got):\n%s", diff)
	}
	if s := mustNew(t, Options{States: []string{"all"}}, Sockets).States(); s != 0 {
		t.Errorf("all is %v, want the empty set", s)
	}
}

func TestMatchCase(t *testing.T) {
	tests := []struct {
		o    Options
		want bool
	}{
		{Options{}, true},
		{Options{Pids: []string{"42"}}, true},
		{Options{Pids: []string{"50"}}, true}, // a holder
		{Options{Pids: []string{"51"}}, false},
		{Options{Comms: []string{"java"}}, true},
		{Options{Comms: []string{"ja*"}}, true},
		{Options{Comms: []string{"jav"}}, false},
		{Options{Comms: []string{"nginx", "sh"}}, true},
		{Options{Lports: []string{"8080"}}, true},
		{Options{Rports: []string{"1-49999"}}, false},
		{Options{Laddrs: []string{"10.0.0.0/8"}}, true},
		{Options{Laddrs: []string{"::ffff:10.0.0.1"}}, true},
		{Options{Raddrs: []string{"::ffff:10.0.0.0/104"}}, true},
		{Options{Raddrs: []string{"192.168.0.0/16,10.0.0.2"}}, true},
		{Options{Raddrs: []string{"fd00::/8"}}, false},
		{Options{IPv4: true}, true},
		{Options{IPv6: true}, false},
		{Options{IPv4: true, IPv6: true}, true},
		{Options{States: []string{"close-wait"}}, true},
		{Options{States: []string{"established"}}, false},
		{Options{Netns: []string{"4026531840"}}, true},
		{Options{Netns: []string{"1"}}, false},
		{Options{Direction: "in"}, true},
		{Options{Direction: "out"}, false},
		{Options{MinDwell: time.Minute}, true},
		{Options{MinDwell: 61 * time.Second}, false},
		{Options{Containers: []string{"abcdef"}}, true},
		{Options{Containers: []string{"bcdef"}}, false},
		{Options{Cgroups: []string{"/system.slice"}}, true},
		{Options{Cgroups: []string{"/sys/fs/cgroup/system.slice/"}}, true},
		{Options{Cgroups: []string{"/"}}, true},
		{Options{Cgroups: []string{"/system"}}, false},
	}
	for _, tt := range tests {
		if got := mustNew(t, tt.o, Sockets).MatchCase(javaCase(), javaFacts()); got != tt.want {
			t.Errorf("%+v: got %v", tt.o, got)
		}
	}
}

// Who looks for a process by name finds what it fails to accept, as by pid: also where
// several listen and nobody is blamed.
func TestMatchListeners(t *testing.T) {
	c := javaCase()
	c.Holders, c.Blamed, c.Cause = nil, event.Task{}, diagnosis.Unaccepted
	for i, name := range []string{"prefmaster", "prefwork0"} {
		c.Listeners = append(c.Listeners, event.Holder{Task: event.Task{Pid: uint32(70 + i), Comm: event.MakeComm(name)}})
	}
	for _, tt := range []struct {
		o    Options
		want bool
	}{
		{Options{Pids: []string{"70"}}, true},
		{Options{Pids: []string{"71"}}, true},
		{Options{Pids: []string{"72"}}, false},
		{Options{Comms: []string{"pref*"}}, true},
		{Options{Comms: []string{"prefmaster"}}, true},
		{Options{Comms: []string{"prefwork?"}}, true},
		{Options{Comms: []string{"pref"}}, false},
		{Options{Comms: []string{"java"}}, false},
		{Options{Where: `any(listeners, .comm == "prefwork0")`}, true},
		{Options{Where: `listener.pid == 70`}, false},
	} {
		if got := mustNew(t, tt.o, Sockets).MatchCase(c, javaFacts()); got != tt.want {
			t.Errorf("%+v: got %v", tt.o, got)
		}
	}
}

func TestMatchTransition(t *testing.T) {
	tr := &event.Transition{
		Flow: event.Flow{
			Local: netip.MustParseAddrPort("[::1]:80"), Remote: netip.MustParseAddrPort("[::1]:5000"), Netns: 9,
		},
		Old: event.Established, New: event.CloseWait, InState: time.Second, InBound: event.AtLeast,
		Direction: event.Out, Owner: event.Task{Pid: 3, Comm: event.MakeComm("kworker/0:1")},
	}
	for _, tt := range []struct {
		o    Options
		want bool
	}{
		{Options{}, true},
		{Options{States: []string{"close-wait"}}, true},
		{Options{States: []string{"established"}}, true},
		{Options{States: []string{"listen"}}, false},
		{Options{Comms: []string{"kworker*"}}, true},
		{Options{Comms: []string{"kworker/0:1"}}, true},
		{Options{Pids: []string{"3"}}, true},
		{Options{Pids: []string{"4"}}, false},
		{Options{IPv6: true}, true},
		{Options{IPv4: true}, false},
		{Options{Laddrs: []string{"[::1]"}}, true},
		{Options{MinDwell: time.Second}, true},
		{Options{MinDwell: 2 * time.Second}, false},
		{Options{Containers: []string{"abc"}}, true},
		{Options{Cgroups: []string{"/a"}}, true},
		{Options{Cgroups: []string{"/a/b/c"}}, false},
	} {
		got := mustNew(t, tt.o, Transitions).MatchTransition(tr, record.Cgroup{Path: "/a/b", Container: "abcd"})
		if got != tt.want {
			t.Errorf("%+v: got %v", tt.o, got)
		}
	}
	tr.InBound = event.BoundUnknown
	if mustNew(t, Options{MinDwell: 1}, Transitions).MatchTransition(tr, record.Cgroup{}) {
		t.Error("an unknown dwell passed --min-dwell")
	}
}

func TestErrorsNameFlagAndChoices(t *testing.T) {
	for _, tt := range []struct {
		o           Options
		flag, value string
	}{
		{Options{Pids: []string{"1,x"}}, "pid", "x"},
		{Options{Pids: []string{"0"}}, "pid", "0"},
		{Options{Pids: []string{""}}, "pid", ""},
		{Options{Comms: []string{"["}}, "comm", "["},
		{Options{Comms: []string{""}}, "comm", ""},
		{Options{Lports: []string{"80,90-80"}}, "lport", "90-80"},
		{Options{Lports: []string{"65536"}}, "lport", "65536"},
		{Options{Rports: []string{"http"}}, "rport", "http"},
		{Options{Rports: []string{"1-2-3"}}, "rport", "1-2-3"},
		{Options{Laddrs: []string{"10.0.0"}}, "laddr", "10.0.0"},
		{Options{Raddrs: []string{"10.0.0.0/33"}}, "raddr", "10.0.0.0/33"},
		{Options{States: []string{"closed"}}, "state", "closed"},
		{Options{Netns: []string{"no such"}}, "netns", "no such"},
		{Options{Containers: []string{""}}, "container", ""},
		{Options{Cgroups: []string{"x"}}, "cgroup", "x"},
		{Options{Direction: "inbound"}, "direction", "inbound"},
		{Options{MinDwell: -1}, "min-dwell", "-1ns"},
		{Options{Where: "1 +"}, "where", "1 +"},
	} {
		_, err := New(&tt.o, Sockets)
		var flag *FlagError
		if !errors.As(err, &flag) || flag.Flag != tt.flag || flag.Value != tt.value || flag.Want == "" {
			t.Errorf("%+v: got %v", tt.o, err)
		}
	}
}

func FuzzNew(f *testing.F) {
	f.Add("80,8000-8100", "10.0.0.0/8", "dwell_ns > 5e9 && !(owner.comm == \"x\")")
	f.Fuzz(func(_ *testing.T, ports, addr, where string) {
		filter, err := New(&Options{Lports: []string{ports}, Laddrs: []string{addr}, Where: where}, Sockets)
		if err == nil {
			filter.MatchCase(javaCase(), javaFacts())
		}
	})
}

func BenchmarkMatchTransition(b *testing.B) {
	events := testenv.Churn(1023)
	for name, o := range map[string]Options{
		"none":  {},
		"ports": {States: []string{"close-wait"}, Lports: []string{"42225"}},
		"comm":  {Comms: []string{"java", "leaker*"}},
		"where": {Where: `in_state_ns > 5e9 && owner.comm == "java"`},
	} {
		b.Run(name, func(b *testing.B) {
			f, err := New(&o, Transitions)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				f.MatchTransition(&events[i%len(events)], record.Cgroup{})
			}
		})
	}
}
