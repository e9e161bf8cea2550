package filter

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/owner"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

func javaCase() *diagnosis.Case {
	java := event.Task{Pid: 42, Tid: 43, Comm: event.MakeComm("java")}
	return &diagnosis.Case{
		Socket: event.Socket{
			At: event.KTime(100 * time.Second), Since: event.KTime(40 * time.Second), Bound: event.AtLeast,
			Cookie: 7, Inode: 8, State: event.CloseWait, Direction: event.In, RecvQ: 1, Cgroup: 5,
			Flow: event.Flow{
				Local:    netip.MustParseAddrPort("10.0.0.1:8080"),
				Remote:   netip.MustParseAddrPort("10.0.0.2:50000"),
				Netns:    4026531840,
				Protocol: event.TCP,
			},
		},
		Holders:      []event.Holder{{Task: java, FD: 9}, {Task: event.Task{Pid: 50, Comm: event.MakeComm("sh")}, FD: 3}},
		HoldersKnown: true,
		Cause:        diagnosis.UnreadEOF, Blamed: java, Evidence: event.EvidenceAccept,
	}
}

func javaFacts() *record.Facts {
	return &record.Facts{
		Processes: map[uint32]*owner.Process{42: {Exe: "/usr/bin/java", Container: "abcdef012345"}},
		Cgroups:   map[uint64]record.Cgroup{5: {Path: "/system.slice/app.service"}},
	}
}

func TestWhereSocket(t *testing.T) {
	tests := map[string]bool{
		`dwell_ns > 5e9 && owner.comm == "java"`:       true,
		`dwell_ns >= 60e9`:                             true,
		`dwell_ns > 60e9`:                              false,
		`owner.comm in ["java", "node"]`:               true,
		`owner.comm matches "^ja"`:                     true,
		`owner.exe contains "bin" and lport == 8080`:   true,
		`owner.exe startsWith "/usr"`:                  true,
		`any(holders, .pid == 50)`:                     true,
		`any(holders, .comm == owner.comm)`:            true,
		`len(holders) == 2`:                            true,
		`len(owner.comm) == 4`:                         true,
		`raddr == "10.0.0.2" && rport in 49152..65535`: true,
		`keepalive`:             false,
		`not keepalive`:         true,
		`owner?.comm == "java"`: true,
		`(owner.comm == "java" ? recv_q : send_q) == 1`: true,
		`let p = lport; p + 1 == 8081`:                  true,

		// What is unknown is neither true nor false.
		`owner.unit == "x"`:                                 false,
		`owner.unit != "x"`:                                 false,
		`!(owner.unit == "x")`:                              false,
		`not (owner.unit in ["x"])`:                         false,
		`owner.unit not in ["x"]`:                           false,
		`owner.unit == "x" || lport == 8080`:                true,
		`!(owner.unit == "x" && lport == 80)`:               true,
		`!(owner.unit == "x" || lport == 80)`:               false,
		`dwell_max_ns < 5`:                                  false,
		`dwell_max_ns + 1 > 0`:                              false,
		`bytes_sent_after_fin == 0`:                         false,
		`eof_seen`:                                          false,
		`!eof_seen`:                                         false,
		`eof_seen == nil`:                                   true,
		`owner.unit == nil && owner.exe != nil`:             true,
		`(owner.unit ?? "none") == "none"`:                  true,
		`peer.pid > 0`:                                      false,
		`any(stacks.eof.frames, .function == "main")`:       false,
		`owner.start_time < date("2026-01-01")`:             false,
		`any(holders, .pid == peer.pid)`:                    false,
		`owner.unit matches "x"`:                            false,
		`upper(owner.unit) == "X"`:                          false,
		`cause == "unread_eof" ? owner.unit == nil : false`: true,
	}
	for source, want := range tests {
		f, err := New(&Options{Where: source}, Sockets)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		for range 2 {
			if got := f.MatchCase(javaCase(), javaFacts()); got != want {
				t.Errorf("%s: got %v, rewritten as %s", source, got, f.where.program.Source())
			}
		}
	}
}

func TestWhereTransition(t *testing.T) {
	tr := &event.Transition{
		Old: event.CloseWait, New: event.LastAck, InState: 90 * time.Second, InBound: event.Exact,
		Owner: event.Task{Pid: 1, Comm: event.MakeComm("a\x1bb")}, Evidence: event.EvidenceRead,
	}
	for source, want := range map[string]bool{
		`old_state == "CLOSE_WAIT" && in_state_ns > 60e9`: true,
		`owner.comm == "a\\x1bb"`:                         true,
		`container == "x" or owner.evidence == "read"`:    true,
		`direction == "in"`:                               false,
		`laddr == nil`:                                    true,
	} {
		f, err := New(&Options{Where: source}, Transitions)
		if err != nil {
			t.Fatalf("%s: %v", source, err)
		}
		if got := f.MatchTransition(tr, record.Cgroup{}); got != want {
			t.Errorf("%s: got %v", source, got)
		}
	}
}

func TestWhereErrors(t *testing.T) {
	for source, want := range map[string]string{
		"foo > 1":            "unknown name foo (1:1); valid fields: bytes_sent_after_fin, cause",
		"owner.foo > 1":      "owner.comm",
		"dwell_ns > \"x\"":   "mismatched types",
		"dwell_ns +":         "unexpected token",
		"recv_q":             "not a condition",
		`owner.comm`:         "not a condition",
		"old_state == \"x\"": "unknown name old_state",
	} {
		_, err := New(&Options{Where: source}, Sockets)
		var flag *FlagError
		if !errors.As(err, &flag) || flag.Flag != "where" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", source, err, want)
		}
	}
}

// The fields of --where are those of the records.
func TestWhereFieldsAreTheRecords(t *testing.T) {
	for _, tt := range []struct{ env, record any }{
		{transitionEnv{}, record.Transition{}},
		{socketEnv{}, record.Socket{}},
	} {
		if diff := cmp.Diff(jsonFields(reflect.TypeOf(tt.record), ""), paths(reflect.TypeOf(tt.env), "")); diff != "" {
			t.Errorf("%T (-record +where):\n%s", tt.env, diff)
		}
	}
}

func jsonFields(typ reflect.Type, prefix string) []string {
	var names []string
	for i := range typ.NumField() {
		field := typ.Field(i)
		if field.Type == reflect.TypeFor[record.Head]() {
			continue
		}
		if field.Anonymous {
			names = append(names, jsonFields(field.Type, prefix)...)
			continue
		}
		// The frames of transitions get their names only after the filter.
		if typ == reflect.TypeFor[record.Transition]() && field.Type == reflect.TypeFor[*record.Stacks]() {
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, below(field.Type, prefix+name, jsonFields)...)
	}
	return names
}

func paths(typ reflect.Type, prefix string) []string {
	var names []string
	for i := range typ.NumField() {
		field := typ.Field(i)
		names = append(names, below(field.Type, prefix+field.Tag.Get("expr"), paths)...)
	}
	return names
}

func below(typ reflect.Type, name string, visit func(reflect.Type, string) []string) []string {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	switch typ {
	case reflect.TypeFor[record.Time](), reflect.TypeFor[time.Time](), reflect.TypeFor[netip.Addr]():
		return []string{name}
	}
	if typ.Kind() != reflect.Struct {
		return []string{name}
	}
	return visit(typ, name+".")
}

func BenchmarkWhereSocket(b *testing.B) {
	f, err := New(&Options{Where: `dwell_ns > 5e9 && owner.comm == "java"`}, Sockets)
	if err != nil {
		b.Fatal(err)
	}
	c, facts := javaCase(), javaFacts()
	b.ReportAllocs()
	for b.Loop() {
		f.MatchCase(c, facts)
	}
}

// Literals of fixed words are checked, states in every spelling.
func TestWhereWords(t *testing.T) {
	c, facts := javaCase(), javaFacts()
	for source, want := range map[string]bool{
		`state == "close-wait"`:                  true,
		`"close_wait" == state`:                  true,
		`state in ["last-ack", "CLOSE-WAIT"]`:    true,
		`state != "close-wait"`:                  false,
		`owner.comm == "anything"`:               false,
		`any(holders, .comm == "not_a_word_of")`: false,
		`holders[7].pid == 5`:                    false,
	} {
		f, err := New(&Options{Where: source}, Sockets)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		if got := f.MatchCase(c, facts); got != want {
			t.Errorf("%s: %v, want %v", source, got, want)
		}
		if err := f.Err(); err != nil {
			t.Errorf("%s: %v", source, err)
		}
	}
	for _, source := range []string{`state == "closed"`, `cause == "leak"`, `owner.evidence != "guess"`, `direction in ["in", "up"]`} {
		if _, err := New(&Options{Where: source}, Sockets); err == nil {
			t.Errorf("%s: no error", source)
		}
	}
}

// An expression that cannot be evaluated chooses nothing, and says so.
func TestWhereRunTimeError(t *testing.T) {
	f, err := New(&Options{Where: `all(1..1000000000, true)`}, Sockets)
	if err != nil {
		t.Fatal(err)
	}
	if f.MatchCase(javaCase(), javaFacts()) || f.Err() == nil {
		t.Errorf("error %v", f.Err())
	}
}
