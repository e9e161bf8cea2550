package e2e

import (
	"fmt"
	"testing"
)

// Busy servers that do nothing wrong: nobody is accused, however often one asks.
func TestScenario20HealthyServers(t *testing.T) {
	s := newScene(t)
	port := s.lab.startNginx(t).port
	web := s.serving(t, "web")
	load := s.play(t, "load", "-pause", "1ms",
		fmt.Sprint("short=127.0.0.1:", port), fmt.Sprint("hasty=127.0.0.1:", port), fmt.Sprint("pool=127.0.0.1:", port),
		"short="+web.addr(), "hasty="+web.addr(), "pool="+web.addr(), "half="+web.addr())
	load.said(t, "running")
	watching := s.watch(t)
	for _, window := range []string{"0", "1s", "3s"} {
		r := s.diagnose(t, "--for", window)
		demandHealthy(t, r)
	}
	demandHealthy(t, s.judge(t, watching))
	said := load.leave(t)
	var total int
	if _, err := fmt.Sscan(load.said(t, "total "), &total); err != nil || total < 1009 {
		t.Errorf("%d connections, want 1009 or more: %s", total, said)
	}
}

// demandHealthy: clean, and so is every process that had a wait at that moment.
func demandHealthy(t *testing.T, v *judged) {
	t.Helper()
	if v.code != exitClean || v.Verdict != "clean" {
		t.Errorf("exit code %d, %s: %s", v.code, v.Verdict, v.stdout)
	}
	for i := range v.Processes {
		if p := &v.Processes[i]; p.Verdict != "clean" || p.Stuck > 0 {
			t.Errorf("%s (%d) is %s with %d stuck: %s", p.Comm, p.Pid, p.Verdict, p.Stuck, p.Why)
		}
	}
}
