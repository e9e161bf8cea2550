package owner

import "testing"

// publishedPaths were met on real hosts: each stands in the tests, sources or manuals of the
// project named.
var publishedPaths = []struct {
	from, path string
	want       Cgroup
}{
	{
		"neuvector, Docker on Debian 8 without a parent", "/4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970",
		Cgroup{Container: "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970"},
	},
	{
		"neuvector, Docker on CentOS", "/system.slice/docker-9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d.scope",
		Cgroup{Container: "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d"},
	},
	{
		"dd-trace-py, Docker", "/docker/3726184226f5d3147c25fdeab5b60097e378e8a720503a5e19ecfdf29f869860",
		Cgroup{Container: "3726184226f5d3147c25fdeab5b60097e378e8a720503a5e19ecfdf29f869860"},
	},
	{
		"dd-trace-py, Docker below the kubelet",
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2d3da189_6407_48e3_9ab6_78188d75e609.slice/docker-7b8952daecf4c0e44bbcefe1b5c5ebc7b4839d4eefeccefe694709d3809b6199.scope",
		Cgroup{Container: "7b8952daecf4c0e44bbcefe1b5c5ebc7b4839d4eefeccefe694709d3809b6199", Pod: "2d3da189-6407-48e3-9ab6-78188d75e609"},
	},
	{
		"dd-trace-py, Kubernetes with cgroupfs", "/kubepods/test/pod3d274242-8ee0-11e9-a8a6-1e68d864ef1a/3e74d3fd9db4c9dd921ae05c2502fb984d0cde1b36e581b13f79c639da4518a1",
		Cgroup{Container: "3e74d3fd9db4c9dd921ae05c2502fb984d0cde1b36e581b13f79c639da4518a1", Pod: "3d274242-8ee0-11e9-a8a6-1e68d864ef1a"},
	},
	{
		"dd-trace-py, ECS on EC2", "/ecs/test-ecs-classic/5a0d5ceddf6c44c1928d367a815d890f/38fac3e99302b3622be089dd41e7ccf38aff368a86cc339972075136ee2710ce",
		Cgroup{Container: "38fac3e99302b3622be089dd41e7ccf38aff368a86cc339972075136ee2710ce"},
	},
	{
		"dd-trace-py, Fargate before 1.4.0", "/ecs/55091c13-b8cf-4801-b527-f4601742204d/432624d2150b349fe35ba397284dea788c2bf66b885d14dfc1569b01890ca7da",
		Cgroup{Container: "432624d2150b349fe35ba397284dea788c2bf66b885d14dfc1569b01890ca7da"},
	},
	{
		"dd-trace-py, Fargate from 1.4.0", "/ecs/55091c13-b8cf-4801-b527-f4601742204d/34dc0b5e626f2c5c4c5170e34b10e765-1234567890",
		Cgroup{Container: "34dc0b5e626f2c5c4c5170e34b10e765-1234567890"},
	},
	{
		"dd-trace-py, Fargate from 1.4.0 in systemd's hierarchy", "/ecs/34dc0b5e626f2c5c4c5170e34b10e765-1234567890",
		Cgroup{Container: "34dc0b5e626f2c5c4c5170e34b10e765-1234567890"},
	},
	{
		"dd-trace-py, Cloud Foundry: not one of ours", "/system.slice/garden.service/garden/6f265890-5165-7fab-6b52-18d1",
		Cgroup{Unit: "garden.service"},
	},
	{"dd-trace-py, no container", "/user.slice/user-0.slice/session-14.scope", Cgroup{Unit: "session-14.scope"}},
	{
		"falcosecurity/libs, Kubernetes", "/kubepods/besteffort/podd0544205-72df-11e8-b691-080027c5d95e/84ad0790d137467a41a21d7fb29b4973f68d4d00e67390454d587da8e5cc292b",
		Cgroup{Container: "84ad0790d137467a41a21d7fb29b4973f68d4d00e67390454d587da8e5cc292b", Pod: "d0544205-72df-11e8-b691-080027c5d95e"},
	},
	{
		"elastic/apm-agent-nodejs, a kubelet below another", "/kubepods/kubepods/besteffort/pod0e886e9a-3879-45f9-b44d-86ef9df03224/244a65edefdffe31685c42317c9054e71dc1193048cf9459e2a4dd35cbc1dba4",
		Cgroup{Container: "244a65edefdffe31685c42317c9054e71dc1193048cf9459e2a4dd35cbc1dba4", Pod: "0e886e9a-3879-45f9-b44d-86ef9df03224"},
	},
	{
		"opentelemetry-ebpf-instrumentation, CRI-O on MicroShift (crun)",
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod73dc8baf_43a0_413e_aac2_5eb0868f6c1a.slice/crio-f52987fbdcc7b29175fb52e01c7917e9d6d2e14550e3a2a7abf739da5a067e31.scope/container",
		Cgroup{Container: "f52987fbdcc7b29175fb52e01c7917e9d6d2e14550e3a2a7abf739da5a067e31", Pod: "73dc8baf-43a0-413e-aac2-5eb0868f6c1a"},
	},
	{
		"opentelemetry-ebpf-instrumentation, CRI-O's monitor is in the pod, not in the container",
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod73dc8baf_43a0_413e_aac2_5eb0868f6c1a.slice/crio-conmon-f52987fbdcc7b29175fb52e01c7917e9d6d2e14550e3a2a7abf739da5a067e31.scope",
		Cgroup{
			Pod:  "73dc8baf-43a0-413e-aac2-5eb0868f6c1a",
			Unit: "crio-conmon-f52987fbdcc7b29175fb52e01c7917e9d6d2e14550e3a2a7abf739da5a067e31.scope",
		},
	},
	{
		"opentelemetry-ebpf-instrumentation, CRI-O's sandbox",
		"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod90b1ecb8_b850_451a_97c6_c073b5ddbb53.slice/crio-59db0b93ab678f22ad44e89bfc902a3a03e8aeec5e823f83e670919381cb20cd",
		Cgroup{Container: "59db0b93ab678f22ad44e89bfc902a3a03e8aeec5e823f83e670919381cb20cd", Pod: "90b1ecb8-b850-451a-97c6-c073b5ddbb53"},
	},
	{
		"opentelemetry-ebpf-instrumentation, CRI-O with cgroupfs, a static pod",
		"/kubepods/podb53dfa9e2dc9b890f7fadb2770857b03/crio-bb959773d06ad1a07d469bced637bbc49b6f8573c493fd0548d7f5810eb3e5a8",
		Cgroup{Container: "bb959773d06ad1a07d469bced637bbc49b6f8573c493fd0548d7f5810eb3e5a8", Pod: "b53dfa9e2dc9b890f7fadb2770857b03"},
	},
	{
		"cri-o, its monitor with cgroupfs", "/kubepods/podb53dfa9e2dc9b890f7fadb2770857b03/crio-conmon-bb959773d06ad1a07d469bced637bbc49b6f8573c493fd0548d7f5810eb3e5a8",
		Cgroup{Pod: "b53dfa9e2dc9b890f7fadb2770857b03"},
	},
	{
		"opentelemetry-ebpf-instrumentation, containerd on k3s",
		"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod6dc88073_2128_40d6_9dbc_0ba508da7fe8.slice/cri-containerd-123cd1db937c3c2d0d7772ef9b0a1c4b0b3dcfcb6b889452a90b2fcb43eae43a.scope",
		Cgroup{Container: "123cd1db937c3c2d0d7772ef9b0a1c4b0b3dcfcb6b889452a90b2fcb43eae43a", Pod: "6dc88073-2128-40d6-9dbc-0ba508da7fe8"},
	},
	{
		"opentelemetry-ebpf-instrumentation, GKE",
		"/kubepods/burstable/pod4a163a05-439d-484b-8e53-2968bc15824f/cde6dfaf5007ed65aad2d6aed72af91b0f3d95813492f773286e29ae145d20f4",
		Cgroup{Container: "cde6dfaf5007ed65aad2d6aed72af91b0f3d95813492f773286e29ae145d20f4", Pod: "4a163a05-439d-484b-8e53-2968bc15824f"},
	},
	{
		"kind, its kubelet's own slice",
		"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod18640755_cc12_4557_b96e_0f74d5b44d1d.slice/cri-containerd-66221e7d988e193822a3e8368b61ad9aeabf6b5276df76daebb7ea33bccc0b87.scope",
		Cgroup{Container: "66221e7d988e193822a3e8368b61ad9aeabf6b5276df76daebb7ea33bccc0b87", Pod: "18640755-cc12-4557-b96e-0f74d5b44d1d"},
	},
	{
		"kind, drivers that differ",
		"/system.slice/containerd.service/kubelet-kubepods-besteffort-pod83b090de_9676_407c_99aa_d33dc6aa0c0d.slice:cri-containerd:18b2adc8507104e412c946bec11679590801f547eee513fa298054f14fbf4240",
		Cgroup{
			Container: "18b2adc8507104e412c946bec11679590801f547eee513fa298054f14fbf4240",
			Pod:       "83b090de-9676-407c-99aa-d33dc6aa0c0d", Unit: "containerd.service",
		},
	},
	{
		"a slice of the pod's own", "/service.slice/podc1281d63_01ab_11ea_ba0a_3cfdfe55a1c0.slice/e2b68f8a6e227921b236c686a243e8ff50f561f493d401da7ac3f8cae28f08b1",
		Cgroup{Container: "e2b68f8a6e227921b236c686a243e8ff50f561f493d401da7ac3f8cae28f08b1", Pod: "c1281d63-01ab-11ea-ba0a-3cfdfe55a1c0"},
	},
	{
		"seen from a sibling's cgroup namespace", "/../cri-containerd-a3cd74dfcc8f1ac5d4d999129414222c5f7ea921223ae63deca19a6e0c0f9e66.scope",
		Cgroup{Container: "a3cd74dfcc8f1ac5d4d999129414222c5f7ea921223ae63deca19a6e0c0f9e66"},
	},
	{
		"podman-systemd.unit(5), a quadlet", "/system.slice/nginx.service/libpod-payload-9687bac58d5c4d1606aa46af33d1a21c1d1652e0ac9fb3fc0fc86e3495f42869",
		Cgroup{Container: "9687bac58d5c4d1606aa46af33d1a21c1d1652e0ac9fb3fc0fc86e3495f42869", Unit: "nginx.service"},
	},
	{"podman-systemd.unit(5), the monitor of a quadlet", "/system.slice/nginx.service/runtime", Cgroup{Unit: "nginx.service"}},
	{
		"podman, a rootless quadlet",
		"/user.slice/user-1000.slice/user@1000.service/app.slice/redis.service/libpod-payload-e8c29da1a2f6c4bb032304f7dfbc5a767e026092c4a2fcbc830e58565f972f54",
		Cgroup{Container: "e8c29da1a2f6c4bb032304f7dfbc5a767e026092c4a2fcbc830e58565f972f54", Unit: "redis.service"},
	},
	{
		"podman, its monitor", "/machine.slice/libpod-conmon-6dd05e91f00f99281f70b1fd90a29e5cc30b0dab243cb7cfb6153d8017872394.scope",
		Cgroup{Unit: "libpod-conmon-6dd05e91f00f99281f70b1fd90a29e5cc30b0dab243cb7cfb6153d8017872394.scope"},
	},
	{"podman with cgroupfs, its monitor", "/libpod_parent/conmon", Cgroup{}},
	{
		"nerdctl", "/system.slice/nerdctl-4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970.scope",
		Cgroup{Container: "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970"},
	},
	{
		"nerdctl with cgroupfs: the namespace of containerd", "/default/4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970",
		Cgroup{Container: "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970"},
	},
	{
		"docker, dind with its processes moved aside", "/system.slice/docker-9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d.scope/init",
		Cgroup{Container: "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d"},
	},
	{
		"docker, a container in dind", "/system.slice/docker-9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d.scope/docker/3726184226f5d3147c25fdeab5b60097e378e8a720503a5e19ecfdf29f869860",
		Cgroup{Container: "3726184226f5d3147c25fdeab5b60097e378e8a720503a5e19ecfdf29f869860"},
	},
	{"lxc, v1", "/lxc/debian2", Cgroup{Container: "debian2"}},
	{"lxc, nested and unprivileged", "/user.slice/user-1000.slice/session-c2.scope/lxc/lxc-U/lxc/lxc-U-nested", Cgroup{Container: "lxc-U-nested", Unit: "session-c2.scope"}},
	{"lxc 4, v2, systemd inside", "/lxc.payload.dbnode/system.slice/postgres.service", Cgroup{Container: "dbnode", Unit: "postgres.service"}},
	{"lxc 4.0", "/lxc.payload/101/ns", Cgroup{Container: "101"}},
	{"lxc, its monitor", "/lxc.monitor.web", Cgroup{}},
	{"lxc 4.0, its monitor", "/lxc.monitor/101", Cgroup{}},
	{
		"systemd-nspawn, systemd inside", "/machine.slice/systemd-nspawn@debian.service/payload/system.slice/app.service",
		Cgroup{Container: "debian", Unit: "app.service"},
	},
	{"systemd-nspawn itself", "/machine.slice/systemd-nspawn@debian.service/supervisor", Cgroup{Unit: "systemd-nspawn@debian.service"}},
	{
		"systemd-nspawn from the command line", `/machine.slice/machine-my\x2dbox.scope/payload/init.scope`,
		Cgroup{Container: "my-box", Unit: "init.scope"},
	},
	{"btop, libvirt's virtual machine", `/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator`, Cgroup{Unit: `machine-qemu\x2d1\x2dvm.scope`}},
	{"btop, the daemon itself", "/system.slice/docker.service", Cgroup{Unit: "docker.service"}},
	{"systemd, a user's unit", "/user.slice/user-1000.slice/user@1000.service/app.slice/app-foo@1.service", Cgroup{Unit: "app-foo@1.service"}},
	{"payload of something else", "/system.slice/web.service/payload", Cgroup{Unit: "web.service"}},
	{"a task's number elsewhere", "/jobs/34dc0b5e626f2c5c4c5170e34b10e765-1234567890", Cgroup{}},
}

func TestParsePublishedCgroupPaths(t *testing.T) {
	for _, tt := range publishedPaths {
		if got := ParseCgroupPath(tt.path); got != tt.want {
			t.Errorf("%s: %s\n got %+v\nwant %+v", tt.from, tt.path, got, tt.want)
		}
	}
}

func TestUnescapeUnit(t *testing.T) {
	for in, want := range map[string]string{
		`a`: "a", `my\x2dbox`: "my-box", `\x41`: "A", `\x4`: `\x4`, `\xzz`: `\xzz`, `a\`: `a\`, ``: "",
	} {
		if got := unescapeUnit(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
