package report

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

func writeProfile(tb testing.TB, f Format, cases []diagnosis.Case, facts *record.Facts) []byte {
	tb.Helper()
	p, err := NewProfile(Options{Format: f, Version: "v1.2.3"})
	if err != nil {
		tb.Fatal(err)
	}
	var buf bytes.Buffer
	all := make([]*diagnosis.Case, 0, len(cases))
	for i := range cases {
		all = append(all, &cases[i])
	}
	if err := p.Write(&buf, slices.Values(all), facts, 10*time.Second); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// Every socket counts once, whatever is known of it.
func TestProfile(t *testing.T) {
	cases, facts := incident()
	p, err := profile.ParseData(writeProfile(t, PProf, cases, facts))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.CheckValid(); err != nil {
		t.Error(err)
	}
	var sockets, dwell int64
	var want time.Duration
	for _, s := range p.Sample {
		sockets += s.Value[0]
		dwell += s.Value[1]
	}
	for i := range cases {
		want += cases[i].Dwell()
	}
	if sockets != int64(len(cases)) || dwell != int64(want.Seconds()) {
		t.Errorf("%d sockets, %d s; want %d, %v", sockets, dwell, len(cases), want)
	}
	if p.DefaultSampleType != "sockets" || p.TimeNanos != clock.Wall.UnixNano() || p.DurationNanos != int64(10*time.Second) ||
		!slices.Equal(p.Comments, []string{"tcpwaitd v1.2.3"}) {
		t.Errorf("%s", p)
	}
	first := p.Sample[0]
	for label, want := range map[string]string{"comm": "java", "remote": "10.0.0.2", "cause": "eof_ignored", "stack": "eof"} {
		if got := first.Label[label]; !slices.Equal(got, []string{want}) {
			t.Errorf("label %s is %q, want %s", label, got, want)
		}
	}
	if first.Value[0] != 20 || first.NumLabel["pid"][0] != int64(java.Pid) || first.Location[0].Line[0].Function.Name != "syscall.read" {
		t.Errorf("first sample %+v", first)
	}
	one, err := profile.ParseData(writeProfile(t, PProf, cases[:20], facts))
	if err != nil || one.Mapping[0].File != "/usr/bin/java" {
		t.Errorf("%v, the program is %v", err, one.Mapping)
	}
	moments := map[string]int64{}
	for _, s := range p.Sample {
		moments[strings.Join(s.Label["stack"], "")] += s.Value[0]
	}
	if fmt.Sprint(moments) != "map[:3 close:2 connect:2 eof:23]" {
		t.Errorf("moments %v", moments)
	}
}

// The same twice, and the same whether the stacks have ids or not.
func TestProfileIsDeterministic(t *testing.T) {
	cases, facts := incident()
	a := writeProfile(t, PProf, cases, facts)
	if !bytes.Equal(a, writeProfile(t, PProf, cases, facts)) {
		t.Error("not the same twice")
	}
	folded := writeProfile(t, Folded, cases, facts)
	for i := range cases {
		cases[i].Stacks = event.Stacks{}
	}
	if again := writeProfile(t, Folded, cases, facts); !bytes.Equal(folded, again) {
		t.Errorf("without ids\n%s\nwith\n%s", again, folded)
	}
}

func TestFolded(t *testing.T) {
	cases, facts := incident()
	text := writeProfile(t, Folded, cases, facts)
	golden(t, "profile,folded", text)
	printable(t, "folded", string(text))
	total := 0
	for line := range strings.Lines(string(text)) {
		stack, count, ok := cutLast(strings.TrimSuffix(line, "\n"))
		n, err := strconv.Atoi(count)
		if !ok || err != nil {
			t.Errorf("%q: %v", line, err)
		}
		total += n
		if strings.Contains(stack, evilName) {
			t.Errorf("unescaped: %q", stack)
		}
	}
	if total != len(cases) {
		t.Errorf("%d sockets, want %d", total, len(cases))
	}
	if empty := writeProfile(t, Folded, nil, &record.Facts{}); len(empty) > 0 {
		t.Errorf("of nothing: %s", empty)
	}
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, ' ')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func saved(t *testing.T) string {
	t.Helper()
	cases, facts := incident()
	path := filepath.Join(t.TempDir(), "waits.pb.gz")
	if err := os.WriteFile(path, writeProfile(t, PProf, cases, facts), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// tool is the program behind go tool pprof, which takes a while to find out each time.
var tool = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "tool", "-n", "pprof").Output()
	if err != nil {
		return "", fmt.Errorf("go tool -n pprof: %w", err)
	}
	path := strings.TrimSpace(string(out))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	// Not built yet: the first run does it.
	if out, err := exec.Command("go", "tool", "pprof", "-h").CombinedOutput(); err != nil && len(out) == 0 {
		return "", fmt.Errorf("go tool pprof: %w", err)
	}
	return path, nil
})

// prepare is the tool that users run, with its arguments.
func prepare(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	path, err := tool()
	if err != nil {
		t.Fatal(err)
	}
	return exec.Command(path, args...)
}

func pprof(t *testing.T, args ...string) string {
	t.Helper()
	cmd := prepare(t, args...)
	cmd.Env = append(os.Environ(), "PPROF_TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return string(out)
}

func TestGoToolPprof(t *testing.T) {
	path := saved(t)
	for _, tt := range []struct {
		args string
		want []string
	}{
		{"-top -cum", []string{"Type: sockets", "of 30 total", "main.(*proxy).pump", "main.drop", "[no stack]", "proxy+0x46e501", "<signal>"}},
		{"-top -sample_index=dwell", []string{"Type: dwell", "syscall.read"}},
		{"-top -tagfocus=stack=eof", []string{"23, 76.67% of 30 total", "main.(*proxy).pump"}},
		{"-top -tagfocus=pid=66", []string{"2, 6.67% of 30 total", "connect"}},
		{"-top -lines -cum -nodecount=1000", []string{"main.(*proxy).pump /src/proxy.go:88"}},
		{"-tags", []string{"comm:", "java", "remote:", "[fd00::1]:443", "cause:", "eof_ignored", "stack:", "connect", "pid:", "4242"}},
		{"-raw", []string{"sockets/count[dflt] dwell/seconds", "/srv/app/proxy", "Mappings"}},
		{"-comments", []string{"tcpwaitd v1.2.3"}},
		{"-traces", []string{"syscall.read", "main.(*proxy).pump"}},
		{"-peek=pump", []string{"net.(*conn).Read"}},
	} {
		out := pprof(t, append(strings.Fields(tt.args), path)...)
		for _, want := range tt.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", tt.args, want, out)
			}
		}
		printable(t, tt.args, strings.ReplaceAll(out, "\t", " "))
	}
	// Several programs: the profile has the name of none.
	if out := pprof(t, "-top", path); strings.Contains(out, "File:") {
		t.Errorf("a name for all: %s", out)
	}
	// Twice as much against once: what was there is left.
	if out := pprof(t, "-top", "-base="+path, path, path); !strings.Contains(out, "Type: sockets") {
		t.Errorf("-base: %s", out)
	}
}

// The flame graph of pprof's web page.
func TestGoToolPprofFlameGraph(t *testing.T) {
	cmd := prepare(t, "-http=localhost:", "-no_browser", saved(t))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	served := regexp.MustCompile(`http://\S+`)
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		at := served.FindString(lines.Text())
		if at == "" {
			continue
		}
		page, err := get(strings.TrimSuffix(at, "/") + "/ui/flamegraph")
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"main.(*proxy).pump", "[no stack]", "net.(*conn).Read"} {
			if !strings.Contains(page, want) {
				t.Errorf("no %s in the flame graph", want)
			}
		}
		return
	}
	t.Fatalf("pprof serves nothing: %v", lines.Err())
}

// patience bounds the wait for a server that says where it listens before it does.
const patience = time.Minute

func get(url string) (string, error) {
	var r *http.Response
	var err error
	for until := time.Now().Add(patience); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
		if r, err = http.Get(url); err == nil {
			break
		}
	}
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	page, err := io.ReadAll(r.Body)
	if r.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", url, r.Status)
	}
	return string(page), err
}

func TestProfileOptions(t *testing.T) {
	for _, o := range []Options{{Format: PProf, Fields: []string{"cookie"}}, {Format: Folded, Sort: "n"}} {
		var option *OptionError
		if _, err := NewProfile(o); !errors.As(err, &option) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := ParseFormat("pprof"); err == nil {
		t.Error("pprof is taken where there are no stacks")
	}
	if f, err := ParseFormat("pprof", ProfileFormats()...); err != nil || !f.Profile() {
		t.Errorf("%s, %v", f, err)
	}
}

func BenchmarkProfile(b *testing.B) {
	few, facts := incident()
	var cases []diagnosis.Case
	for len(cases) < 100_000 {
		cases = append(cases, few...)
	}
	b.ReportAllocs()
	for b.Loop() {
		writeProfile(b, PProf, cases, facts)
	}
}
