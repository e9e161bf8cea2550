package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// killOutcomes goes with sockets(): one of each kind.
func killOutcomes(yes bool) []record.KillOutcome {
	done := record.KillWouldDestroy
	if yes {
		done = record.KillDestroyed
	}
	return []record.KillOutcome{
		{At: clock.Wall, Action: done, State: event.CloseWait},
		{At: clock.Wall.Add(time.Millisecond), Action: done, State: event.CloseWait},
		{At: clock.Wall.Add(2 * time.Millisecond), Action: record.KillFailed, Reason: "destroy socket: operation not permitted", State: event.CloseWait},
	}
}

func writeKill(t *testing.T, o Options, yes bool) []byte {
	t.Helper()
	var buf bytes.Buffer
	k, err := NewKill(&buf, o, yes)
	if err != nil {
		t.Fatal(err)
	}
	s, outcomes := sockets(), killOutcomes(yes)
	for i := range s.Cases.Len() {
		if err := k.Socket(s.Cases.At(i), s.Facts, &outcomes[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.End(); err != nil {
		t.Fatal(err)
	}
	if left, want := k.Left(), "their descriptors are still open: tcpwaitd list --state close -p 66,4242"; yes && left != want {
		t.Errorf("left %q", left)
	}
	return buf.Bytes()
}

func TestKill(t *testing.T) {
	for name, o := range map[string]Options{
		"table":       {Format: Table},
		"table,color": {Format: Table, Color: true},
		"wide":        {Format: Wide},
		"csv":         {Format: CSV, Fields: []string{"time", "action", "reason", "cookie", "cause", "owner.comm", "holders"}},
		"jsonl":       {Format: JSONL},
		"json,fields": {Format: JSON, Fields: []string{"cookie", "action", "owner.pid"}},
	} {
		t.Run(name, func(t *testing.T) {
			golden(t, "kill,dry,"+name, writeKill(t, o, false))
			golden(t, "kill,yes,"+name, writeKill(t, o, true))
		})
	}
}

func TestKillHidesNothingFromATerminal(t *testing.T) {
	for _, format := range []Format{Table, Wide, CSV, JSON, JSONL} {
		for _, yes := range []bool{false, true} {
			if got := writeKill(t, Options{Format: format}, yes); bytes.Contains(got, []byte("\x1b")) {
				t.Errorf("%s: %q", format, got)
			}
		}
	}
}

// Each line must be out before the next socket is destroyed.
func TestKillWritesEachLineAtOnce(t *testing.T) {
	for _, format := range []Format{Table, Wide, CSV, JSON, JSONL} {
		var buf bytes.Buffer
		k, err := NewKill(&buf, Options{Format: format}, true)
		if err != nil {
			t.Fatal(err)
		}
		s, outcomes := sockets(), killOutcomes(true)
		for i := range s.Cases.Len() {
			before := buf.Len()
			if err := k.Socket(s.Cases.At(i), s.Facts, &outcomes[i]); err != nil {
				t.Fatal(err)
			}
			if now := buf.String()[before:]; !strings.HasSuffix(now, "\n") {
				t.Errorf("%s, line %d: %q", format, i, now)
			}
		}
	}
}

func TestKillRecord(t *testing.T) {
	for line := range bytes.Lines(writeKill(t, Options{Format: JSON}, true)) {
		var k struct {
			Schema, Kind, Action string
			DwellNS              *int64 `json:"dwell_ns"`
			Holders              []struct{ Pid int }
		}
		if err := json.Unmarshal(line, &k); err != nil || k.Schema != record.Schema || k.Kind != "kill" || k.Action == "" {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func TestKillOptions(t *testing.T) {
	for flag, o := range map[string]Options{
		"sort": {Format: Table, Sort: "cookie"}, "fields": {Format: CSV, Fields: []string{"frob"}},
	} {
		var refused *OptionError
		if _, err := NewKill(nil, o, true); !errors.As(err, &refused) || refused.Flag != flag {
			t.Errorf("%s: %v", flag, err)
		}
	}
	for _, name := range KillFields() {
		if _, err := NewKill(&bytes.Buffer{}, Options{Format: Table, Fields: []string{name}}, true); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever can be destroyed in CLOSE_WAIT, the reader is told what it means.
func TestKillEffectOfEachCause(t *testing.T) {
	for _, r := range diagnosis.Rules() {
		c := r.Cause
		if c == diagnosis.None || c == diagnosis.ZombieFD {
			continue
		}
		if KillEffect(c) == "" {
			t.Errorf("nothing is said of %s", c)
		}
	}
}
