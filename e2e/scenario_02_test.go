package e2e

import (
	"fmt"
	"io"
	"os/exec"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// A Go client that never closes the body of a response; the server closes the connection
// (the class of govmomi#1335 and golang/go#16953). The same client with the close runs
// beside it.
func TestScenario02BodyNotClosed(t *testing.T) {
	t.Parallel()
	for how, open := range map[string][]string{
		// The stack reaches the function that asked, through net/http and above it.
		"direct": {
			anything, "syscall.connect", anything,
			"net.Dial", "main.direct.RoundTrip", anything, "net/http.(*Client).Get", "main.fetchInventory", "main.main",
		},
		// Go's own transport dials in a goroutine of its own: nobody asked above it.
		"transport": {anything, "net.(*Dialer).DialContext", anything, "net/http.(*Transport).dialConn", "net/http.(*Transport).dialConnFor"},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			// More than a client reads ahead, and the server closes after it.
			server := s.startNginx(t, "keepalive_timeout 0;")
			program := s.gobuild(t, program("bodyclient"), "bodyclient")
			url := fmt.Sprintf("http://127.0.0.1:%d/page", server.port)
			bad := s.startAsked(t, exec.Command(program, url, how))
			good := s.startAsked(t, exec.Command(program, url, how, "close"))
			sockets := s.watchSockets(t)
			v := s.grow(t, func(i int) {
				bad.ask(t, "fetch", fmt.Sprintf("fetched %d\n", i+1))
				good.ask(t, "fetch", "fetched 0\n")
				// net/http closes in a goroutine of its own.
				s.await(t, i+1, "held by the clients", func(r testenv.TCPRow) bool { return r.Rport == server.port && r.Inode != 0 })
				s.awaitUnread(t, i+1, server.port)
			})
			v.demand(t, "leaking", accusation{bad.pid(), "unread_data", "out", n})
			found := 0
			for _, x := range s.seen(t, sockets) {
				w := want{slot: "open", frames: open}
				if text := w.check(x.Stacks); text != "" {
					t.Errorf("%d to %d: %s:\n%v", x.Lport, x.Rport, text, x.Stacks)
				}
				if x.Owner.Pid == bad.pid() && x.Cause == "unread_data" {
					found++
				}
			}
			if found != n {
				t.Errorf("%d sockets listed with unread data, want %d", found, n)
			}
			s.checkList(t, n)
		})
	}
}

// asked is a target that does one thing for each line of its input.
type asked struct {
	*target
	input io.Writer
	said  int
}

func (s *scene) startAsked(t *testing.T, cmd *exec.Cmd) *asked {
	t.Helper()
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return &asked{target: s.start(t, cmd), input: input}
}

// ask sends a line and waits for the answer, in what was not yet answered.
func (a *asked) ask(t *testing.T, line, answer string) {
	t.Helper()
	a.tell(t, line)
	waitFor(t, func() string {
		select {
		case <-a.ended:
			t.Fatalf("%v ended: %s", a.cmd.Args, a.output)
		default:
		}
		if said := a.output.String(); len(said) >= a.said+len(answer) && said[a.said:a.said+len(answer)] == answer {
			a.said += len(answer)
			return ""
		}
		return fmt.Sprintf("%v has not answered %q: %s", a.cmd.Args, answer, a.output)
	})
}

func (a *asked) tell(t *testing.T, line string) {
	t.Helper()
	if _, err := fmt.Fprintln(a.input, line); err != nil {
		t.Fatalf("ask %v: %v", a.cmd.Args, err)
	}
}
