package main

import (
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestParseAccount(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := parseID(me.Uid)
	gid, _ := parseID(me.Gid)
	for text, want := range map[string]*account{
		me.Username:        {Credential: syscall.Credential{Uid: uid, Gid: gid}, name: me.Username, home: me.HomeDir},
		me.Uid:             {Credential: syscall.Credential{Uid: uid, Gid: gid}, name: me.Username, home: me.HomeDir},
		me.Uid + ":54321":  {Credential: syscall.Credential{Uid: uid, Gid: 54321}, name: me.Username, home: me.HomeDir},
		"1234567:54321":    {Credential: syscall.Credential{Uid: 1234567, Gid: 54321}},
		"1234567":          {Credential: syscall.Credential{Uid: 1234567, Gid: 1234567}},
		"4294967295":       nil,
		"no-such-user":     nil,
		"1:no-such-group":  nil,
		"1234567:":         nil,
		":0":               nil,
		"-1":               nil,
		"99999999999999:0": nil,
	} {
		got, err := parseAccount(text)
		if (want == nil) != (err != nil) || err == nil && (got.Uid != want.Uid || got.Gid != want.Gid || got.name != want.name || got.home != want.home) {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
		if err != nil && !isUsage(err) {
			t.Errorf("%q: %v is no usage error", text, err)
		}
		if err == nil && strings.Contains(text, ":") && len(got.Groups) != 0 {
			t.Errorf("%q: groups %v besides the one asked for", text, got.Groups)
		}
	}
	if a, err := parseAccount(""); a != nil || err != nil {
		t.Errorf("nobody asked for: %v, %v", a, err)
	}
}

func TestAccountEnviron(t *testing.T) {
	u := &account{name: "ann", home: "/home/ann"}
	got := u.environ([]string{"HOME=/root", "PATH=/bin", "USER=root", "HOMEDIR=x"})
	slices.Sort(got)
	if want := []string{"HOME=/home/ann", "HOMEDIR=x", "LOGNAME=ann", "PATH=/bin", "USER=ann"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	// A number without an account keeps what there is.
	if got := (&account{}).environ([]string{"HOME=/root"}); !slices.Equal(got, []string{"HOME=/root"}) {
		t.Errorf("%q", got)
	}
}

// Without a terminal every signal is passed on.
func TestFromTerminal(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	for _, tty := range []*os.File{nil, null} {
		for _, s := range forwarded() {
			if fromTerminal(s.(syscall.Signal), tty) {
				t.Errorf("%v is taken for a key", s)
			}
		}
	}
}

func TestStartErrorCode(t *testing.T) {
	for err, want := range map[error]int{
		exec.ErrNotFound: exitNotFound, syscall.ENOENT: exitNotFound,
		syscall.EACCES: exitNotExecutable, syscall.ENOEXEC: exitNotExecutable, syscall.EISDIR: exitNotExecutable,
	} {
		if e := (&startError{"x", err}); e.code() != want || !strings.HasPrefix(e.Error(), "x: ") {
			t.Errorf("%v: code %s, want %d", e, strconv.Itoa(e.code()), want)
		}
	}
}
