package owner

import (
	"strings"
	"testing"
)

const (
	id64  = "4d5ec5e4a4bcd3a1cd0ba4e4a1d6a3f1c1b0e7a05c8ee4e4b9a0b5d9a7c6e501"
	id64b = "00000000a4bcd3a1cd0ba4e4a1d6a3f1c1b0e7a05c8ee4e4b9a0b5d9a7c6e502"
	uid   = "0f3d2a6b-7c1e-4b52-9d4e-1a2b3c4d5e6f"
	uidU  = "0f3d2a6b_7c1e_4b52_9d4e_1a2b3c4d5e6f"
	uid32 = "0f3d2a6b7c1e4b529d4e1a2b3c4d5e6f"
)

var cgroupPaths = []struct {
	name, path string
	want       Cgroup
}{
	{"root", "/", Cgroup{}},
	{"empty", "", Cgroup{}},
	{"service", "/system.slice/nginx.service", Cgroup{Unit: "nginx.service"}},
	{"service with its own tree", "/system.slice/nginx.service/worker/3", Cgroup{Unit: "nginx.service"}},
	{"template", "/system.slice/system-getty.slice/getty@tty1.service", Cgroup{Unit: "getty@tty1.service"}},
	{"session", "/user.slice/user-1000.slice/session-3.scope", Cgroup{Unit: "session-3.scope"}},
	{"user service", "/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service", Cgroup{Unit: "foo.service"}},
	{"slice only", "/user.slice/user-1000.slice", Cgroup{}},
	{"bare suffix", "/.service", Cgroup{}},
	{"docker systemd", "/system.slice/docker-" + id64 + ".scope", Cgroup{Container: id64}},
	{"docker cgroupfs", "/docker/" + id64, Cgroup{Container: id64}},
	{"docker short id", "/docker/4d5ec5e4a4bc", Cgroup{Container: "4d5ec5e4a4bc"}},
	{"docker in docker", "/docker/" + id64 + "/docker/" + id64b, Cgroup{Container: id64b}},
	{"systemd in docker", "/docker/" + id64 + "/system.slice/nginx.service", Cgroup{Container: id64, Unit: "nginx.service"}},
	{"docker init", "/docker/" + id64 + "/init.scope", Cgroup{Container: id64, Unit: "init.scope"}},
	{
		"containerd systemd, burstable",
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uidU + ".slice/cri-containerd-" + id64 + ".scope",
		Cgroup{Container: id64, Pod: uid},
	},
	{
		"CRI-O systemd, guaranteed",
		"/kubepods.slice/kubepods-pod" + uidU + ".slice/crio-" + id64 + ".scope",
		Cgroup{Container: id64, Pod: uid},
	},
	{"cgroupfs, burstable", "/kubepods/burstable/pod" + uid + "/" + id64, Cgroup{Container: id64, Pod: uid}},
	{"CRI-O cgroupfs", "/kubepods/besteffort/pod" + uid + "/crio-" + id64, Cgroup{Container: id64, Pod: uid}},
	{"static pod", "/kubepods/burstable/pod" + uid32 + "/" + id64, Cgroup{Container: id64, Pod: uid32}},
	{
		"kind: kubelet in docker",
		"/docker/" + id64 + "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod" +
			uidU + ".slice/cri-containerd-" + id64b + ".scope",
		Cgroup{Container: id64b, Pod: uid},
	},
	{
		"containerd with the other driver",
		"/system.slice/containerd.service/kubepods-besteffort-pod" + uidU + ".slice:cri-containerd:" + id64,
		Cgroup{Container: id64, Pod: uid, Unit: "containerd.service"},
	},
	{"seen from another cgroup namespace", "/../../kubepods/pod" + uid + "/" + id64, Cgroup{Container: id64, Pod: uid}},
	{"podman", "/machine.slice/libpod-" + id64 + ".scope", Cgroup{Container: id64}},
	{"podman crun", "/machine.slice/libpod-" + id64 + ".scope/container", Cgroup{Container: id64}},
	{"podman cgroupfs", "/libpod_parent/libpod-" + id64, Cgroup{Container: id64}},
	{
		"podman rootless",
		"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id64 + ".scope/container",
		Cgroup{Container: id64, Unit: "user@1000.service"},
	},
	{
		"the monitor is outside the container",
		"/machine.slice/libpod-conmon-" + id64 + ".scope",
		Cgroup{Unit: "libpod-conmon-" + id64 + ".scope"},
	},
	{"full id under any parent", "/ecs/" + uid32 + "/" + id64, Cgroup{Container: id64}},
	{"hex that is no container", "/process_api/4d409c552319926ca3644843afb1500e", Cgroup{}},
	{"too long", "/docker/" + id64 + "0", Cgroup{}},
	{"too short", "/docker/4d5ec5e4a4b", Cgroup{}},
	{"upper case", "/docker/" + strings.ToUpper(id64), Cgroup{}},
	{"scope that only looks like it", "/system.slice/docker-compose.scope", Cgroup{Unit: "docker-compose.scope"}},
	{"pod without uid", "/kubepods/podlike/x", Cgroup{}},
	{"removed", "/system.slice/nginx.service (deleted)", Cgroup{Unit: "nginx.service"}},
	{"removed container", "/docker/" + id64 + " (deleted)", Cgroup{Container: id64}},
}

func TestParseCgroupPath(t *testing.T) {
	for _, tt := range cgroupPaths {
		if got := ParseCgroupPath(tt.path); got != tt.want {
			t.Errorf("%s: %s\n got %+v\nwant %+v", tt.name, tt.path, got, tt.want)
		}
	}
}

func TestParseCgroup(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		want       Cgroup
	}{
		{"v2", "0::/system.slice/nginx.service\n", Cgroup{Unit: "nginx.service"}},
		{
			"v1", "12:memory:/docker/" + id64 + "\n2:cpu,cpuacct:/docker/" + id64 + "\n1:name=systemd:/docker/" + id64 + "\n",
			Cgroup{Container: id64},
		},
		{
			"hybrid: only the controllers know the container",
			"4:memory:/docker/" + id64 + "\n1:name=systemd:/system.slice/containerd.service\n0::/system.slice/containerd.service\n",
			Cgroup{Container: id64, Unit: "containerd.service"},
		},
		{
			"hybrid: v2 wins", "3:pids:/a.service\n1:name=systemd:/b.service\n0::/c.service\n",
			Cgroup{Unit: "c.service"},
		},
		{
			"hybrid without anything", "9:name=systemd:/\n4:memory:/process_api/4d409c552319926ca3644843afb1500e\n0::/\n",
			Cgroup{},
		},
		{
			"colons in the path", "0::/x.service/p-pod" + uidU + ".slice:cri-containerd:" + id64,
			Cgroup{Container: id64, Pod: uid, Unit: "x.service"},
		},
		{"garbage", "nonsense\n:\n\n0:", Cgroup{}},
	} {
		if got := ParseCgroup([]byte(tt.file)); got != tt.want {
			t.Errorf("%s:\n got %+v\nwant %+v", tt.name, got, tt.want)
		}
	}
}

func FuzzParseCgroup(f *testing.F) {
	for _, tt := range cgroupPaths {
		f.Add("0::" + tt.path + "\n")
	}
	for _, tt := range publishedPaths {
		f.Add("0::" + tt.path + "\n")
	}
	f.Add("4:memory:/docker/" + id64 + "\n1:name=systemd:/x.service\n0::/\n")
	f.Fuzz(func(t *testing.T, file string) {
		g := ParseCgroup([]byte(file))
		// Containers without an id have a name, which can be anything.
		if g.Container != "" && ifID(g.Container, 12) == "" && !isFargateID(g.Container) &&
			!strings.Contains(file, "lxc") && !strings.Contains(file, "/payload") {
			t.Errorf("container %q", g.Container)
		}
		if g.Pod != "" && podUID("pod"+g.Pod) != g.Pod {
			t.Errorf("pod %q", g.Pod)
		}
		if g.Unit != "" && (!isUnit(g.Unit) || !strings.Contains(file, g.Unit)) {
			t.Errorf("unit %q", g.Unit)
		}
	})
}
