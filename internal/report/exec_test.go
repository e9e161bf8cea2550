package report

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// execRecord is a suite whose tests leave a socket each, to a server each.
func execRecord() *record.Exec {
	frame := record.Frame{Function: "shop.(*Client).Price", File: "/src/shop/client.go", Line: 88, User: true}
	x := &record.Exec{
		Diagnosis: record.Diagnosis{Verdict: "leaking", ObservedNS: 1e9, Processes: []record.Suspect{{
			Pid: 7, Comm: "shop.test", Verdict: "leaking", Why: "3 never closed", Cmdline: "shop.test -test.v", Advice: []string{"close it"},
		}, {Pid: 8, Comm: "true", Verdict: "clean"}}},
		Command: []string{"go", "test", "./..."}, Unclosed: 3, UnclosedLongestNS: 5e6,
		StillRunning: []record.Task{{Pid: 9, Comm: "redis-server"}, {Pid: 10, Comm: "sh"}},
	}
	for i, ns := range []int64{2e6, 5e6, 1e6} {
		x.Processes[0].Groups = append(x.Processes[0].Groups, record.Group{
			Cause: "unread_eof", Direction: "out", Rport: uint16(4000 + i), N: 1, OldestNS: &ns, OldestBound: "exact",
			StackKind: "open", Frames: []record.Frame{frame},
		})
	}
	return x
}

func writeExec(t *testing.T, o Options) string {
	t.Helper()
	x, err := NewExec(o)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := x.Write(&out, execRecord()); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// The same place is one group for people; records keep the ports.
func TestExec(t *testing.T) {
	const want = `leaking: 1 process does not close sockets
go test ./...: exit code 0 after 1s; 3 sockets were left in CLOSE_WAIT, for at
most 5ms

pid 7 shop.test: leaking
  why       3 never closed
  command   shop.test -test.v
  group     3 sockets, oldest 5ms, connected at shop.(*Client).Price
            client.go:88
            unread_eof, connected
  advice    close it

2 processes of the command still run, judged as of its end: 9 redis-server, 10
sh
`
	if got := writeExec(t, Options{Format: Table}); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	var x record.Exec
	if err := json.Unmarshal([]byte(writeExec(t, Options{Format: JSON})), &x); err != nil {
		t.Fatal(err)
	}
	if len(x.Processes[0].Groups) != 3 || x.Unclosed != 3 || len(x.StillRunning) != 2 || strings.Join(x.Command, " ") != "go test ./..." {
		t.Errorf("%+v", x)
	}
	if got := writeExec(t, Options{Format: CSV, Fields: []string{"pid", "verdict"}}); got != "pid,verdict\n7,leaking\n8,clean\n" {
		t.Errorf("%q", got)
	}
}

// What was closed only when the process ended is said to be so.
func TestExecClosedAtExit(t *testing.T) {
	for late, want := range map[int]string{
		0: "at most 5ms",
		2: "at most 5ms, 2 of them closed only when the process ended",
		3: "at most 5ms, and closed only when the process ended",
	} {
		x := execRecord()
		x.ClosedAtExit = late
		if got := execText(x); !strings.HasSuffix(got, want) {
			t.Errorf("%d: %q", late, got)
		}
	}
}
