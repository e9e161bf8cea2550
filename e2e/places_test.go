package e2e

import (
	"encoding/csv"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// nobody has no privilege at all.
const nobody = 65534

func TestNotRoot(t *testing.T) {
	testenv.RequireRoot(t)
	for _, args := range [][]string{{"list"}, {"tail"}, {"diagnose"}, {"states"}, {"doctor"}} {
		cmd := prepare(t, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		r := finish(t, cmd).want(t, 5)
		if all := r.stdout + r.stderr; !strings.Contains(all, "privilege") || !strings.Contains(all, "root") {
			t.Errorf("%v: no cause and cure in %q", args, all)
		}
	}
	for _, args := range [][]string{{"version"}, {"help"}, {"list", "--help"}, {"completion", "bash"}} {
		cmd := prepare(t, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		finish(t, cmd).want(t, 0)
	}
}

// inPrivateMounts runs the program behind a shell command that may mount what it likes.
func inPrivateMounts(t *testing.T, before string, args ...string) result {
	t.Helper()
	testenv.RequireRoot(t)
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", append([]string{"-c", before + ` && exec "$0" "$@"`, path}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	return finish(t, cmd)
}

func TestNoBTF(t *testing.T) {
	for _, args := range [][]string{{"list"}, {"doctor"}} {
		r := inPrivateMounts(t, "mount -t tmpfs none /sys/kernel/btf", args...).want(t, 5)
		if all := r.stdout + r.stderr; !strings.Contains(all, "BTF") || !strings.Contains(all, "CONFIG_DEBUG_INFO_BTF") {
			t.Errorf("%v: no cause and cure in %q", args, all)
		}
	}
}

func TestLockdown(t *testing.T) {
	const locked = "mount -t tmpfs none /sys/kernel/security && echo 'none integrity [confidentiality]' >/sys/kernel/security/lockdown"
	if _, err := os.Stat("/sys/kernel/security"); err != nil {
		testenv.Skip(t, "securityfs", err.Error())
	}
	r := inPrivateMounts(t, locked, "list").want(t, 5)
	if !strings.Contains(r.stderr, "lockdown") || !strings.Contains(r.stderr, "cure:") {
		t.Errorf("no cause and cure in %q", r.stderr)
	}
}

func TestNoTracefs(t *testing.T) {
	const bare = "mount -t tmpfs none /sys/kernel/tracing && if [ -d /sys/kernel/debug ]; then mount -t tmpfs none /sys/kernel/debug; fi"
	if r := inPrivateMounts(t, bare, "doctor").want(t, 0); !strings.Contains(r.stdout, "mount -t tracefs") {
		t.Errorf("doctor does not say how to mount it: %q", r.stdout)
	}
	r := inPrivateMounts(t, bare, "diagnose", "--for", "1ms", "--syscall-accept", "-L", "1")
	if sees(t).accepts {
		return // by fexit: tracefs is not asked for
	}
	if !strings.Contains(r.stderr, "--syscall-accept") || !strings.Contains(r.stderr, "tracefs") {
		t.Errorf("diagnose does not say that the flag was in vain: %q", r.stderr)
	}
}

func TestNoProcfs(t *testing.T) {
	r := inPrivateMounts(t, "umount -l /proc", "list").want(t, 5)
	if !strings.Contains(r.stderr, "procfs") || !strings.Contains(r.stderr, "cure:") {
		t.Errorf("no cause and cure in %q", r.stderr)
	}
}

// A container without the host's pid namespace: it works, and says what is missing.
func TestOwnPidNamespace(t *testing.T) {
	testenv.RequireRoot(t)
	cmd := prepare(t, "doctor", "-o", "json")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	r := finish(t, cmd).want(t, 0)
	if !strings.Contains(r.stdout, "hostPID") {
		t.Errorf("doctor says nothing of the pid namespace: %s", r.stdout)
	}
	ns := testNetns(t)
	leak := testenv.StartLeaker(t, testenv.Options{Cause: "eof_ignored", N: n, Netns: ns.Path})
	cmd = prepare(t, "list", "-o", "json", "--netns", inode(ns))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	r = finish(t, cmd).want(t, 0)
	if !strings.Contains(r.stderr, "pid namespace") {
		t.Errorf("list says nothing of the pid namespace: %q", r.stderr)
	}
	// Holders are out of sight: that is no proof that there are none.
	for blame, count := range named(decode[list](t, r.stdout).Sockets) {
		if blame.cause != "eof_ignored" || blame.pid != 0 && blame.pid != leak.Pid || count != n {
			t.Errorf("%d sockets: %+v", count, blame)
		}
	}
}

// Names come from processes and may hold anything.
func TestHostileNames(t *testing.T) {
	ns := testNetns(t)
	const evil = "\x1b[31m\n\"=x\xff,"
	program := filepath.Join(t.TempDir(), evil)
	copyLeaker(t, program)
	cmd := exec.Command(program, "-cause=eof_ignored", "-n=23", "-netns="+ns.Path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("leaker: %v", err)
		}
	})
	if err := json.NewDecoder(stdout).Decode(&struct{}{}); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"list"},
		{"list", "-o", "wide"},
		{"list", "-o", "csv"},
		{"list", "-o", "json"},
		{"list", "-o", "jsonl"},
		{"diagnose", "--for", "0", "--threshold", "1ms"},
		{"states", "--by", "pid"},
		{"states", "--by", "pid", "-o", "csv"},
	} {
		r := run(t, append(args, "--netns", inode(ns))...)
		if strings.Contains(r.stdout, "\x1b") || !utf8.ValidString(r.stdout) || !strings.Contains(r.stdout, `\x1b[31m`) {
			t.Errorf("%v: %q", args, r.stdout)
		}
		switch args[len(args)-1] {
		case "json", "jsonl":
			for dec := json.NewDecoder(strings.NewReader(r.stdout)); ; {
				if err := dec.Decode(new(any)); err == io.EOF {
					break
				} else if err != nil {
					t.Fatalf("%v: %v", args, err)
				}
			}
		case "csv":
			if _, err := csv.NewReader(strings.NewReader(r.stdout)).ReadAll(); err != nil {
				t.Errorf("%v: %v", args, err)
			}
		}
	}
}

func copyLeaker(t *testing.T, to string) {
	t.Helper()
	from, err := testenv.LeakerProgram()
	if err != nil {
		t.Fatal(err)
	}
	copyTo(t, from, to)
}
