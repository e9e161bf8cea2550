package testenv

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpwaitd/tcpwaitd/internal/netns"
)

func TestNewNetns(t *testing.T) {
	RequireRoot(t)
	var path string
	t.Run("live", func(t *testing.T) {
		ns := NewNetns(t)
		path = ns.Path
		err := ns.Do(func() error {
			inode, err := netns.Current()
			if inode != ns.Inode {
				t.Errorf("inside %d, want %d", inode, ns.Inode)
			}
			flags, readErr := os.ReadFile(filepath.Join("/proc/thread-self/net", "dev"))
			if len(flags) == 0 {
				t.Error("no interface inside")
			}
			return errors.Join(err, readErr)
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left behind: %v", path, err)
	}
}

func TestMissing(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{syscall.EPERM, "permission"},
		{fmt.Errorf("load: %w", syscall.EPERM), "permission"},
		{fmt.Errorf("verifier: %w", syscall.EACCES), ""},
		{syscall.EINVAL, ""},
		{syscall.EOPNOTSUPP, "support"},
		{syscall.Errno(524), "support"},
		{errors.New("program type tracing: not supported"), "support"},
	} {
		if got := missing(tt.err); got != tt.want {
			t.Errorf("missing(%v) = %q, want %q", tt.err, got, tt.want)
		}
	}
}

func TestSkipMessage(t *testing.T) {
	for _, tt := range []struct {
		require bool
		feature string
		fail    bool
	}{
		{false, "fentry", false},
		{true, "fentry", true},
		{true, "ss", false},
	} {
		if message, fail := skipMessage(tt.require, tt.feature, "reason"); fail != tt.fail || message == "" {
			t.Errorf("skipMessage(%v, %s) = %q, %v", tt.require, tt.feature, message, fail)
		}
	}
}

func TestParseSS(t *testing.T) {
	line := `8 0 [::ffff:127.0.0.1]:44285 [::ffff:127.0.0.1]:38572 users:(("a,b",pid=7,fd=11),("c",pid=8,fd=3)) ino:54429 sk:1fe cgroup:/ -->`
	got, err := parseSS(line)
	if err != nil {
		t.Fatal(err)
	}
	want := SSRow{
		RecvQ: 8, Local: netip.MustParseAddrPort("127.0.0.1:44285"), Remote: netip.MustParseAddrPort("127.0.0.1:38572"),
		Inode: 54429, Cookie: 0x1fe, Users: []SSUser{{"a,b", 7, 11}, {"c", 8, 3}},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if got, err := parseSSAddr("[fe80::1%eth0]:80"); err != nil || got != netip.MustParseAddrPort("[fe80::1]:80") {
		t.Errorf("with a zone: %v, %v", got, err)
	}
	if _, err := parseSS("1 0 nonsense"); err == nil {
		t.Error("nonsense was accepted")
	}
}
