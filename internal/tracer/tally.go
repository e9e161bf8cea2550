package tracer

import (
	"fmt"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// looking is looked_until while a look is under way.
const looking = ^uint64(0)

// noteLook begins a look; the function returned ends it. What ends meanwhile is told: the look may
// have found it open.
func (t *Tracer) noteLook() (end func() error, err error) {
	if !t.cfg.Ends {
		return func() error { return nil }, nil
	}
	return func() error { return t.set("looked_until", uint64(Now())) }, t.set("looked_until", looking)
}

// ShortWaits returns what was counted since Open, in no particular order. Only a tracer with
// Config.Ends counts.
func (t *Tracer) ShortWaits() ([]event.ShortWaits, error) {
	counted := t.maps.Maps["tallies"]
	if counted == nil {
		return nil, nil
	}
	var all []event.ShortWaits
	var key bpfTallyKey
	var tally bpfTally
	it := counted.Iterate()
	for it.Next(&key, &tally) {
		all = append(all, event.ShortWaits{
			Owner: taskOf(&tally.Owner), Direction: event.Direction(key.Direction), Port: key.Port,
			N: tally.N, Longest: time.Duration(tally.Longest),
		})
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read short waits: %w", err)
	}
	return all, nil
}
