package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

const (
	healthyFor         = 3 * time.Minute
	healthyConnections = 20_000
)

// A healthy host under churn for three minutes: real servers, pools of kept connections,
// clients that come and go, programs that close late but before the threshold, streams to
// clients that have ended their side, a process for each connection. One diagnosis watches
// all of it as users do by default, others come and go meanwhile. Nobody is accused.
func TestHealthyHost(t *testing.T) {
	outsideGuests(t)
	if testing.Short() {
		testenv.Skip(t, "three minutes", "it is asked to be short")
	}
	s := newScene(t)
	nginx, redis := s.lab.startNginx(t).port, s.lab.startRedis(t).port
	web := s.serving(t, "web")
	echo := s.serving(t, "server", "-do", "echo")
	fork := s.serving(t, "fork")
	// Below the threshold of those who ask with one second, and of the one who asks with a minute.
	slow := s.serving(t, "server", "-do", "slow", "-after", "300ms")
	slower := s.serving(t, "server", "-do", "slow", "-after", "17s")
	s.play(t, "stream", "-n", "7").said(t, "port")

	opened := netstat(t, s, "Tcp", "ActiveOpens")
	loads := []*actor{
		s.play(t, "load", "-pause", "20ms",
			fmt.Sprint("short=127.0.0.1:", nginx), fmt.Sprint("hasty=127.0.0.1:", nginx), fmt.Sprint("pool=127.0.0.1:", nginx),
			"short="+web.addr(), "hasty="+web.addr(), "pool="+web.addr(), "half="+web.addr(),
			fmt.Sprint("redis=127.0.0.1:", redis), "echo="+echo.addr()),
		s.play(t, "load", "-workers", "1", "-pause", "200ms", "echo="+fork.addr()),
	}
	// These hang up at once; the servers take their time.
	s.play(t, "client", "-close", "-n", "1000003", "-pace", "90ms", slow.addr())
	s.play(t, "client", "-close", "-n", "1000003", "-pace", "700ms", slower.addr())
	for _, l := range loads {
		l.said(t, "running")
	}

	// Beyond the patience of run.
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	judged := make(chan result, 1)
	go func() {
		var stdout, stderr bytes.Buffer
		cmd := exec.CommandContext(t.Context(), path, "diagnose", "-o", "json", "--for", healthyFor.String(), "--netns", inode(s.ns))
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		_ = cmd.Run() // the exit code tells
		judged <- result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
	}()
	short := 0
	for len(judged) == 0 {
		// All but the one that is slow on purpose, beyond this threshold.
		v := s.diagnose(t, "--for", "10s", "--where", fmt.Sprint("lport != ", slower.port))
		demandHealthy(t, v)
		demandHealthy(t, s.diagnose(t, "--where", fmt.Sprint("lport != ", slower.port)))
		short += 2
	}
	v := judgement(t, <-judged)
	demandHealthy(t, v)
	if v.ObservedNS < int64(healthyFor) {
		t.Errorf("watched for %v only", time.Duration(v.ObservedNS))
	}
	opened = netstat(t, s, "Tcp", "ActiveOpens") - opened
	t.Logf("%d connections, %d diagnoses", opened, 1+short)
	if opened < healthyConnections {
		t.Errorf("%d connections, want %d or more", opened, healthyConnections)
	}
	for _, l := range loads {
		l.leave(t)
	}
}

// netstat reads a counter of the scene's namespace.
func netstat(t *testing.T, s *scene, group, name string) (value int) {
	t.Helper()
	err := s.ns.Do(func() error {
		for _, file := range []string{"snmp", "netstat"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil {
				return err
			}
			lines := strings.Split(string(text), "\n")
			for i := 0; i+1 < len(lines); i += 2 {
				names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
				if len(names) == 0 || names[0] != group+":" {
					continue
				}
				for j := range names {
					if names[j] == name {
						value, err = strconv.Atoi(values[j])
						return err
					}
				}
			}
		}
		return fmt.Errorf("no counter %s %s", group, name)
	})
	if err != nil {
		t.Fatal(err)
	}
	return value
}
