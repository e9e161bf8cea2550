package pipeline

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What sysctl.conf(5) says of a setting that the kernel has no more does nothing, and nobody
// is told.
func TestSetInFiles(t *testing.T) {
	proc := t.TempDir()
	const name = "net.ipv4.tcp_tw_recycle"
	for path, text := range map[string]string{
		"etc/sysctl.conf":                  "# net.ipv4.tcp_tw_recycle = 1\n;net.ipv4.tcp_tw_recycle=1\nnet.ipv4.tcp_tw_recycle_not = 1\n",
		"etc/sysctl.d/10-tuned.conf":       "vm.swappiness=1\n net.ipv4.tcp_tw_recycle = 1 \n",
		"run/sysctl.d/20-odd.conf":         "-net/ipv4/tcp_tw_recycle=0\nno setting at all\n",
		"usr/lib/sysctl.d/30-nothing.conf": "",
		"etc/sysctl.d/40-not.txt":          "net.ipv4.tcp_tw_recycle = 1\n",
	} {
		path = filepath.Join(proc, "1", "root", path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	e := &Engine{cfg: Config{Proc: proc}}
	value, files := e.setInFiles(name)
	if diff := cmp.Diff([]string{"/run/sysctl.d/20-odd.conf", "/etc/sysctl.d/10-tuned.conf"}, files); diff != "" || value != "1" {
		t.Errorf("value %q, files %s", value, diff)
	}
	if value, files := e.setInFiles("net.ipv4.tcp_fin_timeout"); value != "" || len(files) != 0 {
		t.Errorf("%q in %v", value, files)
	}
}
