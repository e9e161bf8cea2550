package main

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseStat(t *testing.T) {
	user, system, err := parseStat("23 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 31 0 0 20 0 1 0 99")
	if err != nil || user != 2500*time.Millisecond || system != 310*time.Millisecond {
		t.Errorf("%v user, %v system, %v", user, system, err)
	}
	if _, _, err := parseStat("23 (a) S 1 2"); err == nil {
		t.Error("a short line was taken")
	}
}

func TestParseSmaps(t *testing.T) {
	m := parseSmaps([]byte(`00400000-00500000 r-xp 00000000 fe:00 123 /usr/bin/x
Size:               1024 kB
Rss:                 100 kB
7f0000000000-7f0000800000 rw-s 00001000 00:0f 1039 anon_inode:bpf-map
Rss:                8192 kB
VmFlags: rd mr mw me
7fff00000000-7fff00021000 rw-p 00000000 00:00 0 [stack]
Rss:                  12 kB
`))
	if want := (memory{rss: (100 + 8192 + 12) << 10, ring: 8192 << 10}); m != want {
		t.Errorf("%+v, want %+v", m, want)
	}
}

func TestParseFdinfo(t *testing.T) {
	info, err := parseFdinfo(strings.NewReader("prog_id:\t463\nrun_time_ns:\t99\ntp_name:\tsock_recv_length\n"))
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := info.number("prog_id"); !ok || id != 463 || info["tp_name"] != "sock_recv_length" {
		t.Errorf("%v", info)
	}
	if _, ok := info.number("run_cnt"); ok {
		t.Error("a number that is not there")
	}
}

func TestParseMeminfo(t *testing.T) {
	got := parseMeminfo("MemAvailable:   23 kB\nHugePages_Total:       0\n")
	if want := map[string]uint64{"MemAvailable": 23 << 10, "HugePages_Total": 0}; !cmp.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestPerSocket(t *testing.T) {
	const head = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize> <objperslab>\n"
	before, err := parseSlabs(strings.NewReader(head + "kmalloc-256 1000 1100 256 16 1 : tunables\ndentry 10 10 192 21 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	after, err := parseSlabs(strings.NewReader(head + "kmalloc-256 1230 1300 256 16 1 : tunables\ndentry 60 60 192 21 1\nnew 230 230 64 64 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	// dentry grew by less than half an object a socket: for other reasons.
	if got := perSocket(before, after, 230); got != 256+64 {
		t.Errorf("%v bytes a socket, want 320", got)
	}
	if _, err := parseSlabs(strings.NewReader("x y z 1\n")); err == nil {
		t.Error("no number was taken for one")
	}
}

func TestParseBenchmarks(t *testing.T) {
	got := parseBenchmarks(`goos: linux
BenchmarkUntouched-2   	 5	        23.0 ns/op	       0 B/op	       0 allocs/op
BenchmarkUntouched-2   	 5	        29.0 ns/op	       0 B/op	       0 allocs/op
BenchmarkUntouched-2   	 5	        25.0 ns/op	       0 B/op	       0 allocs/op
BenchmarkName/go-2     	 5	       1024 ns/op	 12.00 MB/s	      16 B/op	       1 allocs/op
PASS
`)
	want := []benched{{"Untouched", 25, 0, 0}, {"Name/go", 1024, 16, 1}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(benched{})); diff != "" {
		t.Error(diff)
	}
}

func TestParseWalk(t *testing.T) {
	if took, err := parseWalk("23 24 5000000\n", 23); err != nil || took != 5*time.Millisecond {
		t.Errorf("%v, %v", took, err)
	}
	for _, text := range []string{"22 23 5\n", "23 22 5\n", "23 23\n", "a b c\n"} {
		if _, err := parseWalk(text, 23); err == nil {
			t.Errorf("%q was taken for 23 sockets", text)
		}
	}
}

func TestOfLoad(t *testing.T) {
	for line, want := range map[string]bool{
		"127.0.0.1:20023 127.0.0.1:9": true,
		"x 20023":                     true,
		`"lport":20023,`:              true,
		"120023 200231 9":             false,
		"120023 20023":                true,
		"":                            false,
	} {
		if got := ofLoad([]byte(line)); got != want {
			t.Errorf("%q: %v, want %v", line, got, want)
		}
	}
	const line = `{"kind":"transition","rport":20023`
	if !reportedOfLoad([]byte(line)) || reportedOfLoad([]byte(line+`,"inferred":true`)) {
		t.Error("inferred transitions are told apart wrongly")
	}
}

func TestPeerProgram(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "tcpstates")
	if err := os.WriteFile(path, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{dir, path, "/nowhere:" + dir, "/nowhere," + path} {
		t.Setenv(peersEnv, value)
		if got, err := peerProgram("tcpstates"); err != nil || got != path {
			t.Errorf("%s: %q, %v", value, got, err)
		}
	}
	t.Setenv(peersEnv, "")
	if _, err := peerProgram("tcpstates"); err == nil {
		t.Error("found without being named")
	}
}

func TestSumAt(t *testing.T) {
	found := []costed{
		{program: "state at inet_sock_set_state", perRun: 400, runs: 1},
		{program: "state_refused at inet_sock_set_state", perRun: 50, runs: 1},
		{program: "recv at sock_recv_length", perRun: 300, runs: 0.2},
	}
	if got := sumAt(found, tool{}, setState); got != 450 {
		t.Errorf("%v ns, want 450", got)
	}
	// The kernel names no hook for programs of perf events.
	found = []costed{{program: "handle", perRun: 9000, runs: 1}, {program: "rarely", perRun: 1000, runs: 0.1}}
	if got := sumAt(found, tool{peer: true}, setState); math.Abs(got-9100) > 1e-6 {
		t.Errorf("%v ns, want 9100", got)
	}
}

func TestTargets(t *testing.T) {
	r := newReport(new(strings.Builder))
	for _, one := range targets() {
		if row := one.row(r); !strings.HasPrefix(row[1], notMeasured) || row[3] != "?" {
			t.Errorf("without values: %v", row)
		}
	}
	ratio := atMost("x", 1.6, "ours", "floor")
	r.set("ours", 160)
	r.fail("floor", errors.New("not installed"))
	if row := ratio.row(r); row[1] != "not measured: not installed" {
		t.Errorf("%v", row)
	}
	r.set("floor", 100)
	if row := ratio.row(r); row[3] != "ok" || row[1] != "1.60 × (160 of 100)" {
		t.Errorf("%v", row)
	}
	r.set("ours", 161)
	if row := ratio.row(r); row[3] != fellShort {
		t.Errorf("%v", row)
	}
	quick := faster("x", 15, "floor", "ours")
	if row := quick.row(r); row[3] != fellShort {
		t.Errorf("%v", row)
	}
}

func TestNumber(t *testing.T) {
	for x, want := range map[float64]string{
		0: "0.0", 1.234: "1.23", 23.45: "23.4", 123.4: "123", 1234567: "1,234,567", -1234: "-1,234", math.NaN(): "-",
	} {
		if got := number(x); got != want {
			t.Errorf("%v is written %s, want %s", x, got, want)
		}
	}
}
