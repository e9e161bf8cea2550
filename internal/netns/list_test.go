package netns

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseLink(t *testing.T) {
	if inode, err := parseLink("net:[4026531833]"); err != nil || inode != 4026531833 {
		t.Errorf("got %d, %v", inode, err)
	}
	for _, bad := range []string{"", "net:[]", "net:[1", "mnt:[1]", "net:[4294967296]", "net:[-1]"} {
		if _, err := parseLink(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// A made-up /proc: the grouping needs no privilege.
func TestListGroupsProcesses(t *testing.T) {
	proc := t.TempDir()
	for pid, link := range map[string]string{
		"1": "net:[10]", "12": "net:[9]", "7": "net:[9]", "20": "net:[10]", "self": "net:[8]",
	} {
		dir := filepath.Join(proc, pid, "ns")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(link, filepath.Join(dir, "net")); err != nil {
			t.Fatal(err)
		}
	}
	// A process that vanishes midway: its directory is there, its link no more.
	if err := os.MkdirAll(filepath.Join(proc, "30", "ns"), 0o755); err != nil {
		t.Fatal(err)
	}
	got, err := list(proc, []string{filepath.Join(proc, "nowhere")})
	if err != nil {
		t.Fatal(err)
	}
	want := []NS{
		{Inode: 10, Path: proc + "/1/ns/net", Name: "host", Pid: 1},
		{Inode: 9, Path: proc + "/7/ns/net", Pid: 7},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := list(filepath.Join(proc, "nowhere"), nil); err == nil {
		t.Error("a missing /proc is not an error")
	}
}
