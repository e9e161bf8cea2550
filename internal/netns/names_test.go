package netns

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestGenerated(t *testing.T) {
	for name, want := range map[string]bool{
		"cni-3f4e5d6c-7a8b-4c9d-8e0f-1a2b3c4d5e6f":   true,
		"netns-3f4e5d6c-7a8b-4c9d-8e0f-1a2b3c4d5e6f": true,
		"3f4e5d6c-7a8b-4c9d-8e0f-1a2b3c4d5e6f":       true,
		"4d5ec5e4a4bc":                               true,
		"blue":                                       false,
		"cni-blue":                                   false,
		"":                                           false,
		"default":                                    false,
		"deadbeef":                                   false,
		"----------4d5ec5e4a4":                       false,
		"cni-":                                       false,
		"qdhcp-3f4e5d6c-7a8b-4c9d-8e0f-1a2b3c4d5e6f": false,
	} {
		if got := generated(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestHostNames(t *testing.T) {
	proc := t.TempDir()
	link(t, proc, 1, "10")
	none := []string{filepath.Join(proc, "nowhere")}
	if diff := cmp.Diff(map[uint32]Name{initIno: {Text: hostName}, 10: {Text: hostName}}, names(proc, true, none)); diff != "" {
		t.Error(diff)
	}
	// Pid 1 of a container can live anywhere.
	if diff := cmp.Diff(map[uint32]Name{initIno: {Text: hostName}}, names(proc, false, none)); diff != "" {
		t.Error(diff)
	}
}

// link makes a process of a made-up /proc.
func link(t *testing.T, proc string, pid int, inode string) {
	t.Helper()
	dir := filepath.Join(proc, strconv.Itoa(pid), "ns")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("net:["+inode+"]", filepath.Join(dir, "net")); err != nil {
		t.Fatal(err)
	}
}

func TestResidents(t *testing.T) {
	proc := t.TempDir()
	link(t, proc, 1, "10")
	link(t, proc, 12, "9")
	link(t, proc, 7, "9")
	var want []uint32
	for pid := 1000; pid < 1000+maxResidents+23; pid++ {
		link(t, proc, pid, "8")
		want = append(want, uint32(pid))
	}
	got, err := Residents(proc, []uint32{9, 8, 77})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[uint32][]uint32{9: {7, 12}, 8: slices.Clip(want[:maxResidents])}, got); diff != "" {
		t.Error(diff)
	}
	if _, err := Residents(filepath.Join(proc, "nowhere"), nil); err == nil {
		t.Error("a missing /proc is not an error")
	}
}
