package report

import (
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

func TestEndsText(t *testing.T) {
	curl := record.Ends{Pid: 7, Comm: "curl", State: "FIN_WAIT2", N: 23}
	closed := curl
	closed.Closed, closed.N = true, 1
	elsewhere := curl
	elsewhere.Netns, elsewhere.NetnsName = 4026532000, "blue"
	nameless := elsewhere
	nameless.NetnsName = ""
	far := record.Ends{N: 5}
	for _, test := range []struct {
		ends            []record.Ends
		others, awaited string
	}{
		{nil, "", ""},
		{
			[]record.Ends{curl},
			"peers: pid 7 curl, FIN_WAIT2 (23)",
			"it has ended its side of 23 connections (FIN_WAIT2) and waits for the end of the other: pid 7 curl, FIN_WAIT2 (23)",
		},
		{
			[]record.Ends{closed},
			"peer: pid 7 curl, which has closed, FIN_WAIT2",
			"it has ended its side of 1 connection (FIN_WAIT2) and waits for the end of the other: pid 7 curl, which has closed, FIN_WAIT2",
		},
		{
			[]record.Ends{elsewhere, nameless, {Gone: true, N: 2}, {State: "FIN_WAIT2", Closed: true, N: 1}, {State: "FIN_WAIT1", N: 3}},
			"peers: pid 7 curl, FIN_WAIT2, in the network namespace blue (23); pid 7 curl, FIN_WAIT2, in the network namespace 4026532000 (23); " +
				"gone (2); held by no process, FIN_WAIT2; 3 more",
			"",
		},
		// They are on other hosts.
		{[]record.Ends{far}, "", "it has ended its side of 5 connections (FIN_WAIT2) and waits for the end of the other"},
	} {
		if got := otherEndsText(test.ends); got != test.others {
			t.Errorf("%+v: %q, want %q", test.ends, got, test.others)
		}
		if got := awaitsText(test.ends); test.awaited != "" && got != test.awaited {
			t.Errorf("%+v: %q, want %q", test.ends, got, test.awaited)
		}
	}
}
