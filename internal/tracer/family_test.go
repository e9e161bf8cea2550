package tracer

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// Descendants of before and after, of any generation, ended or not, and nobody else.
func TestFamily(t *testing.T) {
	testenv.RequireRoot(t)
	root := startChild(t)
	// A program of another name, so that exec() shows.
	leaf := filepath.Join(t.TempDir(), "leaf")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, leaf); err != nil {
		t.Fatal(err)
	}
	there := strings.Fields(root.do("start %s", leaf))
	tr := openIn(t, testenv.NewNetns(t), Config{Live: true, Family: root.pid})
	want := append([]string{strconv.Itoa(int(root.pid))}, there...)
	other := startChild(t)
	others := append([]string{strconv.Itoa(int(other.pid))}, strings.Fields(other.do("spawn %s", leaf))...)
	for range n {
		want = append(want, strings.Fields(root.do("spawn %s", leaf))...)
	}
	all, err := tr.Family()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, task := range all {
		got = append(got, strconv.Itoa(int(task.Pid)))
		if name := task.Comm.String(); task.Start == 0 || (name != "leaf") != (task.Pid == root.pid) {
			t.Errorf("%+v is called %q", task, name)
		}
	}
	// Those of spawn have ended, and have been waited for.
	spawned := want[1+len(there):]
	for _, r := range all {
		if pid := strconv.Itoa(int(r.Pid)); slices.Contains(want, pid) && (r.Ended != 0) != slices.Contains(spawned, pid) {
			t.Errorf("%s ended at %d", pid, r.Ended)
		}
	}
	// Go makes a process of its own now and then, which nobody is told of.
	for _, pid := range want {
		if !slices.Contains(got, pid) {
			t.Errorf("%s is missing in %v", pid, got)
		}
	}
	for _, pid := range others {
		if slices.Contains(got, pid) {
			t.Errorf("%s is in it, and is not a descendant of %d", pid, root.pid)
		}
	}
	if len(want) != 4+3*n || len(others) != 4 {
		t.Errorf("started %v and %v", want, others)
	}
	if s, err := tr.Stats(); err != nil || s.RelativesLost != 0 {
		t.Errorf("%d processes lost, %v", s.RelativesLost, err)
	}
	checkSameTask(t, tr, all, root)
}

// checkSameTask: a member is the task that sockets name.
func checkSameTask(t *testing.T, tr *Tracer, all []Relative, of *child) {
	t.Helper()
	of.do("listen")
	i := slices.IndexFunc(all, func(task Relative) bool { return task.Pid == of.pid })
	for _, h := range snapshot(t, tr, event.Listen).Holders {
		if h.Pid == of.pid && (i < 0 || h.Start != all[i].Start) {
			t.Errorf("holder %+v, family %+v", h, all)
		}
	}
}

func TestFamilyNeedsSomebody(t *testing.T) {
	testenv.RequireRoot(t)
	if _, err := Open(Config{Family: 1}); err == nil {
		t.Error("a family without watching")
	}
	const nobody = 1<<22 + 1 // PID_MAX_LIMIT
	if _, err := Open(Config{Live: true, Family: nobody}); err == nil || !strings.Contains(err.Error(), "no such process") {
		t.Errorf("the family of nobody: %v", err)
	}
	tr := openIn(t, testenv.NewNetns(t), Config{Live: true})
	if all, err := tr.Family(); all != nil || err != nil {
		t.Errorf("without asking: %v, %v", all, err)
	}
}

// The stacks of others would use up the room for those of the family.
func TestFamilyStacks(t *testing.T) {
	testenv.RequireRoot(t)
	other := startChild(t)
	for family, want := range map[uint32]bool{uint32(os.Getpid()): true, other.pid: false} {
		ns := testenv.NewNetns(t)
		sink := &heard{}
		tr := openIn(t, ns, Config{Live: true, Family: family, Stacks: StackConfig{Sink: sink}})
		if err := ns.Do(dialOnce); err != nil {
			t.Fatal(err)
		}
		got := collect(t, tr, func(got []event.Transition) bool {
			return slices.ContainsFunc(got, func(tr event.Transition) bool { return tr.Old == event.SynSent })
		})
		i := slices.IndexFunc(got, func(tr event.Transition) bool { return tr.Old == event.SynSent })
		if taken := got[i].Stacks[event.StackOpen] != 0; taken != want {
			t.Errorf("one of the family: %v, and a stack was taken: %v", want, taken)
		}
	}
}
