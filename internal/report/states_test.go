package report

import (
	"bytes"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// What ss -s calls established stands below the table, never in CSV.
func TestStatesSayWhatIsEstablished(t *testing.T) {
	var counts record.StateCounts
	counts[event.CloseWait], counts[event.Established] = 23, 7
	for name, e := range map[string]*record.Established{
		"one":  {CurrEstab: 30, CloseWait: new(uint64(23)), Netns: []record.NetnsEstablished{{Netns: 1, CurrEstab: 30, CloseWait: new(uint64(23))}}},
		"none": {Netns: []record.NetnsEstablished{}, CloseWait: new(uint64(0))},
		"several": {CurrEstab: 31, Netns: []record.NetnsEstablished{
			{Netns: 1, NetnsName: "host", CurrEstab: 23, CloseWait: new(uint64(23))},
			{Netns: 2, CurrEstab: 7},
			{Netns: 3, NetnsName: "pod shop/web-1", CurrEstab: 1, CloseWait: new(uint64(0))},
		}},
	} {
		for _, format := range []Format{Table, CSV, JSON} {
			t.Run(name+","+string(format), func(t *testing.T) {
				s, err := NewStates(Options{Format: format}, "")
				if err != nil {
					t.Fatal(err)
				}
				r := record.NewStates(record.Time{Time: clock.Wall}, counts, nil, nil)
				r.Established = e
				var buf bytes.Buffer
				if err := s.Write(&buf, &r); err != nil {
					t.Fatal(err)
				}
				golden(t, "states,established,"+name+","+string(format), buf.Bytes())
			})
		}
	}
}

// A table has names; other formats have ids, and names beside them.
func TestStatesByContainerWithNames(t *testing.T) {
	var counts record.StateCounts
	counts[event.CloseWait] = 23
	id := string(bytes.Repeat([]byte("5"), 64))
	for _, format := range []Format{Table, Wide, CSV, JSON} {
		s, err := NewStates(Options{Format: format}, "container")
		if err != nil {
			t.Fatal(err)
		}
		r := record.NewStates(record.Time{Time: clock.Wall}, counts, []record.StatesGroup{
			{Container: id, Names: record.Names{ContainerName: "web", PodName: "web-1", PodNamespace: "shop"}, States: counts},
			{Container: "6" + id[1:], States: counts},
			{States: counts},
			{Unknown: true, States: counts},
		}, nil)
		var buf bytes.Buffer
		if err := s.Write(&buf, &r); err != nil {
			t.Fatal(err)
		}
		golden(t, "states,containers,"+string(format), buf.Bytes())
	}
}

func dwellRecord() record.States {
	r := record.NewStates(record.Time{Time: clock.Wall}, record.StateCounts{}, nil, nil)
	r.ObservedNS = new(int64(10 * time.Second))
	r.Dwell = []record.Dwell{
		{
			State: "SYN_SENT", Sockets: 23, OldestNS: new(int64(8 * time.Second)), OldestBound: "exact",
			LimitNS: new(int64(7 * time.Second)), LimitMaxNS: new(int64(131 * time.Second)), LimitBy: "net.ipv4.tcp_syn_retries",
			OverLimit: 2, Meaning: "The other end does not answer.",
		},
		{State: "FIN_WAIT2", Orphaned: new(false), Sockets: 1, OldestNS: new(int64(time.Hour)), OldestBound: "at_least", Meaning: "A program here keeps the socket."},
		{State: "FIN_WAIT2", Orphaned: new(true), Sockets: 5, LimitNS: new(int64(time.Minute)), LimitBy: "net.ipv4.tcp_fin_timeout", Meaning: "Closed here."},
		{State: "LAST_ACK", Orphaned: new(true), LimitNS: new(int64(102200 * time.Millisecond)), LimitBy: "net.ipv4.tcp_orphan_retries"},
	}
	r.Left = []record.Left{
		{State: "SYN_SENT", N: 1000, MedianNS: 45_000, P99NS: 80_000, MaxNS: 3_000_000_000},
		{State: "CLOSE_WAIT", N: 2, AtLeast: 1, MedianNS: 9_000_000_000, P99NS: 17_000_000_000, MaxNS: 17_000_000_000},
	}
	return r
}

func TestDwell(t *testing.T) {
	for name, o := range map[string]Options{
		"table": {Format: Table}, "wide": {Format: Wide}, "csv": {Format: CSV}, "json": {Format: JSON},
		"jsonl,fields": {Format: JSONL, Fields: []string{"state", "orphaned", "over_limit"}, Sort: "-sockets"},
		"table,fields": {Format: Table, Fields: []string{"state", "sockets"}, Sort: "-sockets"},
	} {
		d, err := NewDwell(o)
		if err != nil {
			t.Fatal(err)
		}
		r := dwellRecord()
		var buf bytes.Buffer
		if err := d.Write(&buf, &r); err != nil {
			t.Fatal(err)
		}
		if o.Format == Table {
			fits(t, buf.String())
		}
		golden(t, "dwell,"+name, buf.Bytes())
	}
	if _, err := NewDwell(Options{Format: Table, Sort: "nonsense"}); err == nil {
		t.Error("sorts by a field that is not there")
	}
}

func TestNothingStands(t *testing.T) {
	d, err := NewDwell(Options{Format: Table})
	if err != nil {
		t.Fatal(err)
	}
	r := dwellRecord()
	r.Dwell, r.Left = r.Dwell[3:], nil
	var buf bytes.Buffer
	if err := d.Write(&buf, &r); err != nil {
		t.Fatal(err)
	}
	golden(t, "dwell,nothing", buf.Bytes())
}
