package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// An application that closes, but so late that the NAT between it and its server has
// forgotten the connection: nf_conntrack_tcp_timeout_close_wait is 60 s (istio#43297). Its
// FIN then reaches nobody, and the server's end stays in FIN_WAIT2. The application is slow,
// which is worth a warning; it does not leak.
//
// Here the threshold is 1 s, the NAT forgets after 2 s and the application closes after 4 s.
func TestScenario15SlowCloseThroughNAT(t *testing.T) {
	s := newScene(t)
	s.innocents(t)
	there := behindNAT(t, s)
	far := &lab{ns: there, dir: s.dir}
	server := playBy(t, []string{"server", "-do", "greet", "-listen", "10.99.0.2:0"}, far.start)
	server.readPort(t)
	// The application knows another address than the server's.
	nft(t, s, fmt.Sprintf(`table ip nat {
		chain output {
			type nat hook output priority -100;
			ip daddr 10.98.0.1 tcp dport 80 dnat to 10.99.0.2:%d
		}
	}`, server.port))
	app := s.play(t, "client", "-n", "1009", "-pace", "101ms", "-after", "4s", "10.98.0.1:80")
	// It takes two of these times before a stuck one was seen to be closed.
	waitFor(t, func() string {
		if c := lastACKs(t, s); c < 5 {
			return fmt.Sprintf("%d closed late, want 5", c)
		}
		return ""
	})

	v := s.diagnose(t, "--for", "9s")
	p := v.of(t, app.pid())
	if v.Verdict != "suspicious" || p.Verdict != "suspicious" || len(v.Processes) != 1 {
		t.Errorf("want the application alone, suspicious: %s", v.stdout)
	}
	if p.Stuck < n || !strings.Contains(p.Why, "it does close") {
		t.Errorf("%d stuck because %q, want more, and that it does close", p.Stuck, p.Why)
	}
	for _, g := range p.Groups {
		if g.Direction != "out" || g.Rport != 80 || g.Cause != "eof_ignored" && g.Cause != "unread_eof" {
			t.Errorf("%+v", g)
		}
	}

	// Its other end has another address here than there; it is found all the same.
	r := run(t, "list", "-o", "json", "--netns", inode(s.ns), "-D", "80").want(t, exitClean)
	sockets := decode[struct {
		Sockets []struct {
			Owner   struct{ Pid int }
			Cause   string
			DwellNS int64 `json:"dwell_ns"`
			Peer    *struct {
				Pid       int
				State     string
				Netns     uint32
				Laddr     string
				Lport     uint16
				MatchedBy string `json:"matched_by"`
			}
		}
	}](t, r.stdout).Sockets
	checked := 0
	for _, x := range sockets {
		// One that was closed while list looked is in no message.
		if x.Cause == "in_flight" {
			t.Errorf("in flight, with the peer %+v", x.Peer)
		}
		// Others come and go while list looks: they have no peer yet, or no owner any more.
		if x.DwellNS < int64(time.Second) || x.DwellNS > int64(3*time.Second) {
			continue
		}
		checked++
		end := x.Peer
		if x.Owner.Pid != app.pid() || end == nil || end.Pid != server.pid() || end.State != event.FinWait2.String() ||
			end.Netns != there.Inode || end.Laddr != "10.99.0.2" || end.Lport != server.port || end.MatchedBy != "sequence" {
			t.Errorf("%s, owner %d, want the application %d; peer %+v, want %d", x.Cause, x.Owner.Pid, app.pid(), end, server.pid())
		}
	}
	if checked < 11 {
		t.Errorf("%d of %d sockets are of the age to be checked, want more", checked, len(sockets))
	}

	// The NAT has forgotten, and that is what the server suffers from. It waits for a FIN,
	// and is not accused.
	stays := 0
	for _, r := range testenv.TCPTable(t, there.Path) {
		if r.Lport == server.port && r.State == event.FinWait2 {
			stays++
		}
	}
	if stays <= p.Sockets {
		t.Errorf("%d of the server's ends in FIN_WAIT2, want more than the %d that wait", stays, p.Sockets)
	}
	other := decode[judged](t, run(t, "diagnose", "-o", "json", "--for", "0", "--threshold", "1s", "--netns", inode(there)).want(t, exitClean).stdout)
	if len(other.Processes) > 0 {
		t.Errorf("accused on the server's side: %+v", other.Processes)
	}
}

// lastACKs counts those that were closed and whose FIN nobody answers.
func lastACKs(t *testing.T, s *scene) int {
	t.Helper()
	count := 0
	for _, r := range testenv.TCPTable(t, s.ns.Path) {
		if r.State == event.LastAck {
			count++
		}
	}
	return count
}

// behindNAT makes another namespace, with a wire to the scene and an address only the NAT
// leads to.
func behindNAT(t *testing.T, s *scene) *testenv.Netns {
	t.Helper()
	there := testNetns(t)
	ip := tool(t, "ip")
	for _, args := range []string{
		"link add near netns " + s.ns.Name + " type veth peer name far netns " + there.Name,
		"-n " + s.ns.Name + " addr add 10.99.0.1/24 dev near",
		"-n " + s.ns.Name + " link set near up",
		"-n " + s.ns.Name + " route add 10.98.0.0/24 via 10.99.0.2",
		"-n " + there.Name + " addr add 10.99.0.2/24 dev far",
		"-n " + there.Name + " link set far up",
	} {
		if err := command(ip, strings.Fields(args)...); err != nil {
			t.Fatal(err)
		}
	}
	return there
}

// nft loads rules in the scene and makes its connection tracking forget soon.
func nft(t *testing.T, s *scene, rules string) {
	t.Helper()
	path := tool(t, "nft")
	err := s.ns.Do(func() error {
		cmd := exec.Command(path, "-f", "-")
		cmd.Stdin = strings.NewReader(rules)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait", []byte("2"), 0)
	})
	if err != nil {
		t.Fatal(err)
	}
}
