package e2e

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/cri"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// placed is a socket record as far as it says where.
type placed struct {
	Netns             uint32
	NetnsName         string `json:"netns_name"`
	Cause             string
	Container, Cgroup string
	Owner             struct {
		Pid                  int
		Unit, Container, Pod string
		runtimeNames
		Evidence string
	}
}

// runtimeNames are the fields that only a runtime can fill.
type runtimeNames struct {
	ContainerName string `json:"container_name"`
	Image         string
	PodName       string `json:"pod_name"`
	PodNamespace  string `json:"pod_namespace"`
}

type placedList struct{ Sockets []placed }

type placedVerdict struct {
	Processes []struct {
		Pid                  int
		Unit, Container, Pod string
		Sockets              int
		runtimeNames
	}
}

// hexID is one that no runtime and no other test has.
func hexID(t *testing.T, digits int) string {
	t.Helper()
	raw := make([]byte, digits/2)
	if _, err := rand.Read(raw); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(raw)
}

func podUID(t *testing.T) string {
	t.Helper()
	h := hexID(t, 32)
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

// leakIn starts a leak by a process that was in the control groups before it had a socket.
func leakIn(t *testing.T, o testenv.Options, procs ...string) *testenv.Leaker {
	t.Helper()
	program, err := testenv.LeakerProgram()
	if err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\nset -e\n"
	for _, file := range procs {
		script += "echo $$ > '" + file + "'\n"
	}
	wrapper := filepath.Join(t.TempDir(), "leaker")
	if err := testenv.WriteProgram(wrapper, []byte(script+"exec '"+program+"' \"$@\"\n")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TCPWAITD_LEAKER", wrapper)
	l := testenv.StartLeaker(t, o)
	t.Setenv("TCPWAITD_LEAKER", program)
	return l
}

// listPlaced lists the sockets that wait in the namespace.
func listPlaced(t *testing.T, netns uint32, args ...string) []placed {
	t.Helper()
	r := run(t, append([]string{"list", "--netns", fmt.Sprint(netns), "-o", "json"}, args...)...).want(t, 0)
	return decode[placedList](t, r.stdout).Sockets
}

func cgroupLayouts(t *testing.T) []struct{ name, path, container, pod, unit string } {
	t.Helper()
	id, uid := hexID(t, 64), podUID(t)
	uidSlice := strings.ReplaceAll(uid, "-", "_")
	fargate := hexID(t, 32) + "-1234567890"
	return []struct{ name, path, container, pod, unit string }{
		{"docker", "/docker/" + id, id, "", ""},
		{"docker, systemd", "/system.slice/docker-" + id + ".scope", id, "", ""},
		{
			"containerd", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uidSlice + ".slice/cri-containerd-" + id + ".scope",
			id, uid, "",
		},
		{"containerd, cgroupfs", "/kubepods/besteffort/pod" + uid + "/" + id, id, uid, ""},
		{"CRI-O", "/kubepods.slice/kubepods-pod" + uidSlice + ".slice/crio-" + id + ".scope/container", id, uid, ""},
		{
			"podman, rootless quadlet", "/user.slice/user-1000.slice/user@1000.service/app.slice/shop.service/libpod-payload-" + id,
			id, "", "shop.service",
		},
		{"podman's monitor", "/machine.slice/libpod-conmon-" + id + ".scope", "", "", "libpod-conmon-" + id + ".scope"},
		{"ECS", "/ecs/" + hexID(t, 32) + "/" + fargate, fargate, "", ""},
		{"LXC", "/lxc.payload.tcpwaitd-test/system.slice/web.service", "tcpwaitd-test", "", "web.service"},
		{"service", "/system.slice/tcpwaitd-test.service", "", "", "tcpwaitd-test.service"},
	}
}

// On v1 only processes have a container: the kernel keeps no such group with a socket.
func TestContainerByCgroupV1(t *testing.T) {
	outsideGuests(t)
	v1, v2 := testenv.CgroupsV1(t), testenv.CgroupsV2(t)
	for _, tt := range cgroupLayouts(t) {
		t.Run(tt.name, func(t *testing.T) {
			ns := testNetns(t)
			v1.New(t, tt.path)
			// As on a host that has v1 alone, v2 says nothing.
			l := leakIn(t, testenv.Options{Cause: "eof_ignored", Netns: ns.Path}, v1.Procs(tt.path), v2.Procs("/"))
			sockets := listPlaced(t, ns.Inode)
			if len(sockets) != n {
				t.Fatalf("%d sockets, want %d", len(sockets), n)
			}
			for _, s := range sockets {
				o := s.Owner
				if o.Pid != l.Pid || o.Container != tt.container || o.Pod != tt.pod || o.Unit != tt.unit {
					t.Fatalf("owner %+v, want %d %+v", o, l.Pid, tt)
				}
				if s.Container != "" || s.Cgroup != "/" && s.Cgroup != "" {
					t.Fatalf("socket in container %q, cgroup %q", s.Container, s.Cgroup)
				}
			}
			checkDiagnosed(t, ns.Inode, l.Pid, tt.container, tt.pod, tt.unit)
			if tt.container != "" {
				if got := listPlaced(t, ns.Inode, "--container", tt.container[:12]); len(got) != n {
					t.Errorf("--container found %d, want %d", len(got), n)
				}
			}
		})
	}
}

func checkDiagnosed(t *testing.T, netns uint32, pid int, container, pod, unit string) {
	t.Helper()
	r := run(t, "diagnose", "--for", "0", "--netns", fmt.Sprint(netns), "-o", "json")
	got := decode[placedVerdict](t, r.stdout).Processes
	if len(got) != 1 || got[0].Pid != pid || got[0].Sockets != n ||
		got[0].Container != container || got[0].Pod != pod || got[0].Unit != unit {
		t.Errorf("diagnosed %+v, want %d %s %s %s", got, pid, container, pod, unit)
	}
}

// On v2 the socket has a group of its own.
func TestContainerByCgroupV2(t *testing.T) {
	outsideGuests(t)
	v2 := testenv.CgroupsV2(t)
	for _, tt := range cgroupLayouts(t) {
		t.Run(tt.name, func(t *testing.T) {
			ns := testNetns(t)
			v2.New(t, tt.path)
			l := leakIn(t, testenv.Options{Cause: "eof_ignored", Netns: ns.Path}, v2.Procs(tt.path))
			sockets := listPlaced(t, ns.Inode)
			if len(sockets) != n {
				t.Fatalf("%d sockets, want %d", len(sockets), n)
			}
			for _, s := range sockets {
				o := s.Owner
				if o.Pid != l.Pid || o.Container != tt.container || o.Pod != tt.pod || o.Unit != tt.unit {
					t.Fatalf("owner %+v, want %d %+v", o, l.Pid, tt)
				}
				if s.Container != tt.container || s.Cgroup != tt.path {
					t.Fatalf("socket in container %q, cgroup %q, want %q", s.Container, s.Cgroup, tt.path)
				}
			}
			checkDiagnosed(t, ns.Inode, l.Pid, tt.container, tt.pod, tt.unit)
			if got := listPlaced(t, ns.Inode, "--cgroup", tt.path); len(got) != n {
				t.Errorf("--cgroup found %d, want %d", len(got), n)
			}
		})
	}
}

// A socket stays where it was made, wherever its process goes.
func TestSocketKeepsItsCgroup(t *testing.T) {
	outsideGuests(t)
	v2, ns := testenv.CgroupsV2(t), testNetns(t)
	from, to := hexID(t, 64), hexID(t, 64)
	fromPath, toPath := "/docker/"+from, "/docker/"+to
	v2.New(t, fromPath)
	v2.New(t, toPath)
	l := leakIn(t, testenv.Options{Cause: "eof_ignored", Netns: ns.Path}, v2.Procs(fromPath))
	v2.Move(t, toPath, l.Pid)
	sockets := listPlaced(t, ns.Inode)
	if len(sockets) != n {
		t.Fatalf("%d sockets, want %d", len(sockets), n)
	}
	for _, s := range sockets {
		if s.Container != from || s.Cgroup != fromPath || s.Owner.Pid != l.Pid || s.Owner.Container != to {
			t.Fatalf("%+v, want the socket in %s, its owner in %s", s, from, to)
		}
	}
	// Both are what one can look for.
	for _, id := range []string{from, to} {
		if got := listPlaced(t, ns.Inode, "--container", id); len(got) != n {
			t.Errorf("--container %s found %d, want %d", id, len(got), n)
		}
	}
}

// Without an owner the socket's own group is all there is.
func TestContainerWithoutOwner(t *testing.T) {
	outsideGuests(t)
	v2, ns := testenv.CgroupsV2(t), testNetns(t)
	id := hexID(t, 64)
	v2.New(t, "/docker/"+id)
	leakIn(t, testenv.Options{Cause: "in_flight", Netns: ns.Path}, v2.Procs("/docker/"+id))
	sockets := listPlaced(t, ns.Inode)
	if len(sockets) != n {
		t.Fatalf("%d sockets, want %d", len(sockets), n)
	}
	for _, s := range sockets {
		if s.Cause != "in_flight" || s.Owner.Pid != 0 || s.Container != id {
			t.Fatalf("%+v, want container %s", s, id)
		}
	}
}

// shop is a pod with one container whose process leaks, and the runtime that knows it.
type shop struct {
	*testenv.Leaker
	runtime     *testenv.Runtime
	cgroups     *testenv.Cgroups
	id, uid     string
	path        string
	netns       uint32
	removesName func()
}

// newShop makes the runtime the one that tcpwaitd asks.
func newShop(t *testing.T) *shop {
	t.Helper()
	ns := testNetns(t)
	s := &shop{
		runtime: testenv.StartRuntime(t), cgroups: testenv.CgroupsV2(t), netns: ns.Inode,
		id: hexID(t, 64), uid: podUID(t),
	}
	sandbox := hexID(t, 64)
	s.runtime.AddPod(sandbox, s.uid, "shop", "cart-1")
	s.runtime.AddContainer(s.id, sandbox, "web", "registry.example/web:1.2")
	s.path = "/kubepods.slice/kubepods-pod" + strings.ReplaceAll(s.uid, "-", "_") + ".slice/cri-containerd-" + s.id + ".scope"
	s.cgroups.New(t, s.path)
	t.Setenv(cri.EndpointEnv, "unix://"+s.runtime.Path)
	// The process lives there as a whole, as that of a container does.
	if err := ns.Do(func() error {
		s.Leaker = leakIn(t, testenv.Options{Cause: "eof_ignored"}, s.cgroups.Procs(s.path))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	s.removesName = func() {
		if err := unix.Unmount(ns.Path, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// check demands the ids, and the names if there are to be some.
func (s *shop) check(t *testing.T, sockets []placed, want runtimeNames) {
	t.Helper()
	if len(sockets) != n {
		t.Fatalf("%d sockets, want %d", len(sockets), n)
	}
	for _, got := range sockets {
		if got.Owner.Pid != s.Pid || got.Owner.Container != s.id || got.Owner.Pod != s.uid || got.Container != s.id {
			t.Fatalf("%+v, want %d in %s of %s", got, s.Pid, s.id, s.uid)
		}
		if got.Owner.runtimeNames != want {
			t.Fatalf("names %+v, want %+v", got.Owner.runtimeNames, want)
		}
	}
}

func TestNamesByTheRuntime(t *testing.T) {
	outsideGuests(t)
	s := newShop(t)
	names := runtimeNames{"web", "registry.example/web:1.2", "cart-1", "shop"}
	s.check(t, listPlaced(t, s.netns), names)

	for _, args := range [][]string{
		{"--container", "web"},
		{"--container", "w?b"},
		{"--container", "nobody,web"},
		{"--container", s.id[:7]},
		{"--where", `owner.container_name == "web" && owner.pod_name == "cart-1" && owner.pod_namespace == "shop"`},
	} {
		s.check(t, listPlaced(t, s.netns, args...), names)
	}
	for _, args := range [][]string{
		{"--container", "we"}, {"--container", "web?"}, {"--where", `owner.pod_name == "cart"`},
	} {
		if got := listPlaced(t, s.netns, args...); len(got) != 0 {
			t.Errorf("%v found %d", args, len(got))
		}
	}

	r := run(t, "diagnose", "--for", "0", "--netns", fmt.Sprint(s.netns), "-o", "json")
	if got := decode[placedVerdict](t, r.stdout).Processes; len(got) != 1 || got[0].runtimeNames != names {
		t.Errorf("diagnosed %+v", got)
	}
	r = run(t, "diagnose", "--for", "0", "--threshold", "1ms", "--netns", fmt.Sprint(s.netns), "--no-color")
	if want := "container web (" + s.id[:12] + "), pod shop/cart-1"; !strings.Contains(r.stdout, want) {
		t.Errorf("no %q in:\n%s", want, r.stdout)
	}
	r = run(t, "list", "--netns", fmt.Sprint(s.netns), "-o", "wide").want(t, 0)
	if got := strings.Count(r.stdout, " web "); got != n {
		t.Errorf("%d lines name the container, want %d:\n%s", got, n, r.stdout)
	}
}

// A transition is chosen by the name of its socket's container.
func TestTailByContainerName(t *testing.T) {
	outsideGuests(t)
	s := newShop(t)
	chosen := start(t, "tail", "-o", "json", "--state", "close-wait", "--container", "web")
	other := start(t, "tail", "-o", "json", "--state", "close-wait", "--container", "db")
	ns := testNetns(t)
	again := leakIn(t, testenv.Options{Cause: "eof_ignored", Netns: ns.Path}, s.cgroups.Procs(s.path))
	got := 0
	for line := range strings.Lines(chosen.interrupt(t).stdout) {
		tr := decode[struct {
			Kind, Container string
			Lport           uint16
			NewState        string `json:"new_state"`
		}](t, line)
		if tr.Kind == "transition" && tr.NewState == "CLOSE_WAIT" && tr.Lport == again.Lport && tr.Container == s.id {
			got++
		}
	}
	if got != n {
		t.Errorf("%d transitions, want %d", got, n)
	}
	if out := other.interrupt(t).stdout; strings.Contains(out, `"transition"`) {
		t.Errorf("chosen by another name: %s", out)
	}
}

// A namespace without a name of its own is explained by who lives there.
func TestNetnsNames(t *testing.T) {
	outsideGuests(t)
	// Made first, so that it ends after the processes that are moved there.
	docker := hexID(t, 64)
	testenv.CgroupsV2(t).New(t, "/docker/"+docker)
	s := newShop(t)
	first := listPlaced(t, s.netns)
	if len(first) != n || !strings.HasPrefix(first[0].NetnsName, "tcpwaitd-test-") {
		t.Fatalf("%d sockets; %+v", len(first), first[0])
	}
	s.removesName()
	for endpoint, want := range map[string]string{
		s.runtime.Path:    "pod shop/cart-1",
		"/nowhere/a.sock": "pod " + s.uid,
	} {
		t.Setenv(cri.EndpointEnv, endpoint)
		for _, got := range listPlaced(t, s.netns) {
			if got.Netns != s.netns || got.NetnsName != want {
				t.Fatalf("namespace %d %q, want %q", got.Netns, got.NetnsName, want)
			}
		}
	}
	// Processes of two containers that are no pod: neither explains it.
	s.cgroups.Move(t, "/docker/"+docker, s.Peer)
	if s.Peer != s.Pid {
		if got := listPlaced(t, s.netns); len(got) != n || got[0].NetnsName != "" {
			t.Errorf("%d sockets, %+v", len(got), got[0])
		}
	}
	s.cgroups.Move(t, "/docker/"+docker, s.Pid)
	s.cgroups.Move(t, "/docker/"+docker, s.Leader)
	if got := listPlaced(t, s.netns); len(got) != n || got[0].NetnsName != "container "+docker[:12] {
		t.Errorf("%d sockets, %+v, want container %s", len(got), got[0], docker[:12])
	}
}

// Whatever the runtime does, the answer comes, with ids.
func TestRuntimesThatFail(t *testing.T) {
	outsideGuests(t)
	for name, fail := range map[string]func(s *shop) (endpoint string){
		"hangs":       func(s *shop) string { s.runtime.Hang(); return s.runtime.Path },
		"fails":       func(s *shop) string { s.runtime.Fail(errors.New("out of order")); return s.runtime.Path },
		"not there":   func(s *shop) string { return s.runtime.Path + ".gone" },
		"no socket":   func(*shop) string { return "/proc/version" },
		"not by unix": func(*shop) string { return "tcp://127.0.0.1:1" },
	} {
		t.Run(name, func(t *testing.T) {
			s := newShop(t)
			t.Setenv(cri.EndpointEnv, fail(s))
			r := run(t, "list", "--netns", fmt.Sprint(s.netns), "-o", "json").want(t, 0)
			s.check(t, decode[placedList](t, r.stdout).Sockets, runtimeNames{})
			if r.stderr != "" {
				t.Errorf("noise: %s", r.stderr)
			}
			checkDiagnosed(t, s.netns, s.Pid, s.id, s.uid, "")
			// Who asks by name is told why nobody has it; who asks by id need not know.
			r = run(t, "list", "--netns", fmt.Sprint(s.netns), "--container", "web").want(t, 0)
			if !strings.Contains(r.stderr, "--container finds ids only") {
				t.Errorf("not told: %q", r.stderr)
			}
			r = run(t, "list", "--netns", fmt.Sprint(s.netns), "--container", s.id).want(t, 0)
			if r.stderr != "" {
				t.Errorf("noise: %s", r.stderr)
			}
		})
	}
}

// Strings of a runtime are shown escaped and cut.
func TestRuntimeWithHostileNames(t *testing.T) {
	outsideGuests(t)
	s := newShop(t)
	s.runtime.AddContainer(s.id, "", "\x1b[31mred\n"+strings.Repeat("x", 1<<20), "a\u202eb")
	sockets := listPlaced(t, s.netns)
	if len(sockets) != n {
		t.Fatalf("%d sockets", len(sockets))
	}
	o := sockets[0].Owner
	if !strings.HasPrefix(o.ContainerName, `\x1b[31mred\n`) || len(o.ContainerName) > 600 || o.Image != `a\u202eb` {
		t.Errorf("%d bytes %.40q, image %q", len(o.ContainerName), o.ContainerName, o.Image)
	}
	r := run(t, "list", "--netns", fmt.Sprint(s.netns), "-o", "wide").want(t, 0)
	if strings.ContainsAny(r.stdout, "\x1b\u202e") {
		t.Errorf("raw: %q", r.stdout)
	}
}

// A socket that may not be used is as good as none.
func TestRuntimeNotReadable(t *testing.T) {
	outsideGuests(t)
	s := newShop(t)
	if err := os.Chmod(s.runtime.Path, 0o700); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	cmd := prepare(t, "list", "--netns", fmt.Sprint(s.netns), "-o", "json", "-v")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: nobody, Gid: nobody},
		AmbientCaps: []uintptr{
			unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH,
		},
	}
	r := finish(t, cmd).want(t, 0)
	s.check(t, decode[placedList](t, r.stdout).Sockets, runtimeNames{})
	if !strings.Contains(r.stderr, "permission denied") {
		t.Errorf("not told why: %s", r.stderr)
	}
	if got := s.runtime.Asked(); got != 0 {
		t.Errorf("asked %d times", got)
	}
}
