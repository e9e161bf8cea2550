package e2e

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

func monotonic() int64 {
	var ts unix.Timespec
	// Cannot fail for this clock.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// Dwell of finished waits, against the clock readings around both close() calls. The FIN may be
// delivered after the peer's close() has returned; a wait has begun when it was seen.
func TestTailTimesWaits(t *testing.T) {
	ns := testNetns(t)
	tail := start(t, "tail", "-o", "json", "--netns", inode(ns), "--state", "close-wait")
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path, CloseAfter: 200 * time.Millisecond})
	type truth struct{ least, most time.Duration }
	want := map[uint16]truth{}
	for line := range leak.Lines {
		if s := line.Socket; s != nil && line.CloseBefore != 0 {
			want[s.Rport] = truth{time.Duration(line.CloseBefore - s.Seen), time.Duration(line.CloseAfter - s.Before)}
		}
		if len(want) == n {
			break
		}
	}
	dec := json.NewDecoder(tail.stdout)
	entered := 0
	for ended := 0; ended < n; {
		var tr transition
		if err := dec.Decode(&tr); err != nil {
			t.Fatalf("after %d of %d waits: %v", ended, n, err)
		}
		if tr.NewState == "CLOSE_WAIT" {
			entered++
		}
		if tr.OldState != "CLOSE_WAIT" {
			continue
		}
		ended++
		w := want[tr.Rport]
		if tr.InStateNS == nil || tr.InStateBound != "exact" || tr.Owner.Pid != leak.Pid {
			t.Errorf("end of a wait: %+v", tr)
			continue
		}
		if d := time.Duration(*tr.InStateNS); d < w.least-5*time.Millisecond || d > w.most+5*time.Millisecond {
			t.Errorf("wait of port %d lasted %v, truth is between %v and %v", tr.Rport, d, w.least, w.most)
		}
	}
	if entered != n {
		t.Errorf("%d waits began, want %d", entered, n)
	}
	if err := tail.cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	tail.wait(t).want(t, 0)
}

func TestLeakThatGrows(t *testing.T) {
	ns := testNetns(t)
	d := start(t, "diagnose", "-o", "json", "--for", patience.String(), "--threshold", "100ms", "--netns", inode(ns))
	// It has to go on while it is judged, however long that takes: silence would be no growth.
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "grow", N: 23 * n, Netns: ns.Path, Every: 100 * time.Millisecond})
	for grown := range n {
		if line := <-leak.Lines; line.Socket == nil {
			t.Fatalf("leaker ended after %d", grown)
		}
	}
	r := d.interrupt(t).want(t, 3)
	most := kernelStates(t, ns.Path)["CLOSE_WAIT"]
	v := decode[verdict](t, r.stdout)
	if len(v.Processes) != 1 || v.Verdict != "leaking" || v.Processes[0].Pid != leak.Pid || v.Processes[0].Sockets < n || v.Processes[0].Sockets > most {
		t.Errorf("verdict %+v, want pid %d leaking %d to %d", v, leak.Pid, n, most)
	}
}

// Thousands of connections, each closed promptly.
func TestHealthyServerIsClean(t *testing.T) {
	ns := testNetns(t)
	d := start(t, "diagnose", "-o", "json", "--for", patience.String(), "--threshold", "1s", "--netns", inode(ns))
	testenv.StartLeaker(t, testenv.Options{Cause: "healthy", N: 4001, Netns: ns.Path})
	r := d.interrupt(t).want(t, 0)
	if v := decode[verdict](t, r.stdout); v.Verdict != "clean" || lost(v.Loss) {
		t.Errorf("verdict %+v", v)
	}
	run(t, "diagnose", "--for", "0", "--netns", inode(ns)).want(t, 0)
}

// states counts what the kernel's own table has.
func TestStatesEqualKernel(t *testing.T) {
	ns := testNetns(t)
	testenv.StartLeaker(t, testenv.Options{Cause: "unread_data", N: n, Netns: ns.Path})
	testenv.StartLeaker(t, testenv.Options{Cause: "unaccepted", N: n, Netns: ns.Path})
	acknowledged(t, ns)
	r := run(t, "states", "-o", "json", "--netns", inode(ns)).want(t, 0)
	got := decode[struct{ States map[string]int }](t, r.stdout).States
	want := map[string]int{}
	for _, row := range testenv.TCPTable(t, ns.Path) {
		want[row.State.String()]++
	}
	for state, count := range got {
		if count != want[state] {
			t.Errorf("%s: %d, the kernel's table has %d", state, count, want[state])
		}
	}
	if len(got) < 12 || got["CLOSE_WAIT"] != 2*n {
		t.Errorf("states %v", got)
	}
}

// A closed pipe is the reader's way of saying enough.
func TestClosedPipeEndsQuietly(t *testing.T) {
	ns := testNetns(t)
	tail := start(t, "tail", "--netns", inode(ns))
	testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path})
	if _, err := tail.stdout.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := tail.pipe.Close(); err != nil {
		t.Fatal(err)
	}
	testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path})
	<-tail.done
	if err := tail.cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, tail.stderr)
	}
	if bytes.Contains(tail.stderr.Bytes(), []byte("pipe")) {
		t.Errorf("stderr: %s", tail.stderr)
	}
}

// The kernel gives an accepted MPTCP socket its listener's cookie, once somebody has asked
// for that one: list does. Each must be counted all the same.
func TestMPTCPSocketsAreToldApart(t *testing.T) {
	ns := testNetns(t)
	d := start(t, "diagnose", "-o", "json", "--for", patience.String(), "--threshold", "100ms", "--netns", inode(ns))
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "grow", MPTCP: true, N: n, Netns: ns.Path, Every: 50 * time.Millisecond})
	for range 3 {
		<-leak.Lines
	}
	run(t, "list", "--state", "all", "--netns", inode(ns)).want(t, 0)
	for range n - 3 {
		<-leak.Lines
	}
	v := decode[verdict](t, d.interrupt(t).stdout)
	if len(v.Processes) != 1 || v.Processes[0].Pid != leak.Pid || v.Processes[0].Sockets != n || lost(v.Loss) {
		t.Errorf("verdict %+v, want %d sockets of pid %d", v, n, leak.Pid)
	}
	sockets := decode[list](t, run(t, "list", "-o", "json", "--netns", inode(ns)).want(t, 0).stdout).Sockets
	if got := named(sockets)[blame{leak.Pid, "eof_ignored"}]; got != n || len(sockets) != n {
		t.Errorf("%d of %d listed sockets are the leak's, want %d", got, len(sockets), n)
	}
}
