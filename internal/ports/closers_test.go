package ports

import (
	"net/netip"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

func task(pid uint32, start time.Duration) event.Task {
	return event.Task{Pid: pid, Start: event.BootTime(start), Comm: event.MakeComm("x")}
}

func change(old, to event.State, closer uint32) *event.Transition {
	t := &event.Transition{Old: old, New: to, Closer: closer, Direction: event.Out, Flow: event.Flow{
		Local: netip.MustParseAddrPort("10.0.0.1:30000"), Remote: netip.MustParseAddrPort("10.0.0.9:80"), Netns: space, Protocol: event.TCP,
	}}
	t.Stacks[event.StackClose] = 7
	return t
}

func TestTally(t *testing.T) {
	var tally Tally
	for range 23 {
		tally.Add(change(event.Established, event.FinWait1, 5), task(5, time.Second))
	}
	for range 7 {
		tally.Add(change(event.FinWait1, event.Closing, 5), task(5, time.Second))
	}
	exiting := change(event.SynRecv, event.FinWait1, 5)
	exiting.Exiting, exiting.Direction = true, event.In
	tally.Add(exiting, task(5, time.Second))
	for _, reset := range []*event.Transition{change(event.Established, event.Close, 5), change(event.CloseWait, event.Close, 5)} {
		tally.Add(reset, task(5, time.Second))
	}
	subflow := change(event.Established, event.FinWait1, 5)
	subflow.Subflow = true
	for _, nothing := range []*event.Transition{
		subflow, change(event.FinWait2, event.Close, 0), change(event.Established, event.Close, 0), change(event.CloseWait, event.LastAck, 5),
		change(event.FinWait1, event.Closing, 6), // closed before anybody watched
	} {
		tally.Add(nothing, task(nothing.Closer, time.Second))
	}
	all := tally.Closers()
	if len(all) != 1 {
		t.Fatalf("%d closers: %+v", len(all), all)
	}
	c := all[0]
	if c.ClosedFirst != 17 || c.Simultaneous != 7 || c.Resets != 2 || c.Exiting != 1 {
		t.Errorf("%+v", c)
	}
	if c.Sites[Site{7, event.Out, 80}] != 16 || c.Sites[Site{7, event.In, 30000}] != 1 || c.Destinations[DestinationOf(&subflow.Flow)] != 16 {
		t.Errorf("%+v", c)
	}
}

// A pid that is given out again is another process; a start time that is known to a tick only
// is not.
func TestTallyTellsProcessesApart(t *testing.T) {
	var tally Tally
	for _, start := range []time.Duration{3009 * time.Millisecond, 3 * time.Second, 9 * time.Second, 9 * time.Second} {
		tally.Add(change(event.Established, event.FinWait1, 5), task(5, start))
	}
	all := tally.Closers()
	if len(all) != 2 || all[0].ClosedFirst != 2 || all[1].ClosedFirst != 2 {
		t.Errorf("%+v", all)
	}
}

func TestTallyFailures(t *testing.T) {
	var tally Tally
	failed := change(event.SynSent, event.Close, 0)
	failed.NoPort = true
	bound := *failed
	failed.Flow.Local = netip.AddrPortFrom(failed.Flow.Local.Addr(), 0)
	for range 23 {
		tally.Add(failed, task(5, time.Second))
	}
	for range 7 {
		tally.Add(&bound, task(5, time.Second))
	}
	// Refused, timed out, given up: these had a port to themselves. An MPTCP socket tells what its subflow tells.
	tally.Add(change(event.SynSent, event.Close, 0), task(5, time.Second))
	above := *failed
	above.Flow.Protocol = event.MPTCP
	tally.Add(&above, task(5, time.Second))
	if all := tally.Failures(); len(all) != 1 || all[0].N != 30 || all[0].Bound != 7 || all[0].Task.Pid != 5 || all[0].Rport != 80 {
		t.Errorf("%+v", all)
	}
	if len(tally.Closers()) != 0 {
		t.Errorf("%+v", tally.Closers())
	}
}
