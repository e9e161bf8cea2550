package testenv

import (
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/netns"
)

// SSRow is one line of ss, the tool that ours is compared with.
type SSRow struct {
	RecvQ, SendQ  uint32
	Local, Remote netip.AddrPort
	Inode, Cookie uint64
	Users         []SSUser
}

// SSUser is one descriptor as ss names it.
type SSUser struct {
	Comm string
	Pid  uint32
	FD   int32
}

// SS returns the TCP sockets in CLOSE_WAIT of a network namespace, "" for our own. It
// skips the test where ss is not installed.
func SS(tb testing.TB, netnsPath string) []SSRow {
	tb.Helper()
	if _, err := exec.LookPath("ss"); err != nil {
		Skip(tb, "ss", err.Error())
	}
	var out []byte
	run := func() (err error) {
		out, err = exec.Command("ss", "-H", "-tanpoe", "state", "close-wait").Output()
		return err
	}
	var err error
	if netnsPath == "" {
		err = run()
	} else {
		err = netns.Do(netnsPath, run)
	}
	if err != nil {
		tb.Fatalf("run ss: %v", err)
	}
	var rows []SSRow
	for line := range strings.Lines(string(out)) {
		row, err := parseSS(line)
		if err != nil {
			tb.Fatalf("parse ss line %q: %v", line, err)
		}
		rows = append(rows, row)
	}
	return rows
}

// parseSS reads "Recv-Q Send-Q local peer users:((...)) ino:N sk:HEX ...".
func parseSS(line string) (row SSRow, err error) {
	f := strings.Fields(line)
	if len(f) < 4 {
		return row, fmt.Errorf("%d fields, want 4 at least", len(f))
	}
	if row.RecvQ, err = parse32(f[0]); err != nil {
		return row, err
	}
	if row.SendQ, err = parse32(f[1]); err != nil {
		return row, err
	}
	if row.Local, err = parseSSAddr(f[2]); err != nil {
		return row, err
	}
	if row.Remote, err = parseSSAddr(f[3]); err != nil {
		return row, err
	}
	for _, field := range f[4:] {
		switch key, value, _ := strings.Cut(field, ":"); key {
		case "ino":
			row.Inode, err = strconv.ParseUint(value, 10, 64)
		case "sk":
			row.Cookie, err = strconv.ParseUint(value, 16, 64)
		}
		if err != nil {
			return row, err
		}
	}
	row.Users, err = parseSSUsers(line)
	return row, err
}

func parse32(s string) (uint32, error) {
	v, err := strconv.ParseUint(s, 10, 32)
	return uint32(v), err
}

// parseSSAddr reads 127.0.0.1%lo:80 and [::ffff:127.0.0.1]:80; the latter is IPv4.
func parseSSAddr(s string) (netip.AddrPort, error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return netip.AddrPort{}, fmt.Errorf("no port in %q", s)
	}
	host, _, _ := strings.Cut(strings.Trim(s[:i], "[]"), "%")
	addr, err := netip.ParseAddr(strings.TrimSuffix(host, "]"))
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := strconv.ParseUint(s[i+1:], 10, 16)
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), err
}

func parseSSUsers(line string) ([]SSUser, error) {
	// The name is the process's own choice and may contain anything.
	user := regexp.MustCompile(`\("(.*?)",pid=(\d+),fd=(\d+)\)`)
	var users []SSUser
	for _, m := range user.FindAllStringSubmatch(line, -1) {
		pid, err := parse32(m[2])
		if err != nil {
			return nil, err
		}
		fd, err := strconv.ParseInt(m[3], 10, 32)
		if err != nil {
			return nil, err
		}
		users = append(users, SSUser{m[1], pid, int32(fd)})
	}
	return users, nil
}
