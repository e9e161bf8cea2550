package symbol

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

func TestCanonical(t *testing.T) {
	cases := map[string]struct {
		aliases []alias
		want    string
	}{
		"none":                       {nil, ""},
		"fewest underscores":         {[]alias{{"__libc_close", false}, {"close", false}, {"__close", false}}, "close"},
		"exported":                   {[]alias{{"aaa", true}, {"serve", false}}, "serve"},
		"underscores before binding": {[]alias{{"__clone3", false}, {"clone3", true}}, "clone3"},
		"shortest":                   {[]alias{{"accept_four", false}, {"accept4", false}}, "accept4"},
		"version":                    {[]alias{{"memcpy@@GLIBC_2.14", false}}, "memcpy"},
		"mangled is no underscore":   {[]alias{{"_serve", false}, {"_ZN3net5serveEv", false}}, "net::serve"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := canonical(c.aliases); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestReadable(t *testing.T) {
	for name, want := range map[string]string{
		"accept4":                   "accept4",
		"serve.cold":                "serve",
		"serve.isra.0":              "serve",
		"serve.constprop.0.isra.12": "serve",
		"serve.constprop.0.cold":    "serve",
		"serve.llvm.5823640162":     "serve",
		"serve.part.0":              "serve.part.0",
		"serve.part.0.cold":         "serve.part.0",
		"serve.cold.7.x":            "serve.cold.7.x",
		"serve.coldest":             "serve.coldest",
		".cold":                     ".cold",
		"_ZN3net6Server5serveERKSt6vectorINSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEESaIS7_EE": "net::Server::serve",
		"_ZN3net6Server6acceptINSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEEEiRKT_.isra.0":      "net::Server::accept",
		"_ZN4node7TCPWrap7ConnectERKN2v820FunctionCallbackInfoINS1_5ValueEEE":                           "node::TCPWrap::Connect",
		// Rust, old and new.
		"_ZN4rsrv11accept_loop17h9638ea54c4aa0ee2E":                                        "rsrv::accept_loop",
		"_ZN4core3ptr31drop_in_place$LT$rsrv..Pool$GT$17h85c832398b351cd8E":                "core::ptr::drop_in_place<rsrv::Pool>",
		"_RNvMs7_NtNtCsjrHSEGnQ3l9_3std3net3tcpNtB5_11TcpListener6accept":                  "<std::net::tcp::TcpListener>::accept",
		"_RINvCsblPwUE8TsQq_4rsrv9read_someNtNtNtCsjrHSEGnQ3l9_3std3net3tcp9TcpStreamEB2_": "rsrv::read_some",
		// Not mangled after all.
		"_Zebra": "_Zebra",
		"_Reset": "_Reset",
	} {
		if got := readable(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestShorten(t *testing.T) {
	long := shorten(strings.Repeat("ä", maxName))
	if len(long) > maxName || !utf8.ValidString(long) || !strings.HasSuffix(long, "ä...") {
		t.Errorf("got %d bytes ending in %q", len(long), long[len(long)-8:])
	}
	if got := shorten(strings.Repeat("\xff", 2*maxName)); len(got) > maxName {
		t.Errorf("got %d bytes", len(got))
	}
	if got := shorten("short"); got != "short" {
		t.Errorf("got %q", got)
	}
}

func TestCPlusPlus(t *testing.T) {
	path := compileC(t, "server.cc")
	found := namesIn(t, path)
	for _, want := range []string{"net::Server::accept", "net::Server::serve", "net::(anonymous namespace)::hidden", "main"} {
		if !found[want] {
			t.Errorf("no %s", want)
		}
	}
}

func TestRust(t *testing.T) {
	rustc, err := exec.LookPath("rustc")
	if err != nil {
		testenv.Skip(t, "rustc", "not in PATH")
	}
	path := filepath.Join(t.TempDir(), "rsrv")
	run(t, rustc, "-O", "--crate-name", "rsrv", "-o", path, "testdata/server.rs")
	found := namesIn(t, path)
	for _, want := range []string{"rsrv::accept_loop", "rsrv::read_some", "rsrv::main", "main"} {
		if !found[want] {
			t.Errorf("no %s", want)
		}
	}
	if !found["<std::net::tcp::TcpListener>::accept"] && !found["std::net::tcp::TcpListener::accept"] {
		t.Error("no TcpListener::accept")
	}
	if !found["rsrv::Pool::handle_conn"] && !found["<rsrv::Pool>::handle_conn"] {
		t.Error("no Pool::handle_conn")
	}
}

// namesIn are the names of all functions with symbols, asked for at their second byte.
func namesIn(tb testing.TB, path string) map[string]bool {
	tb.Helper()
	o := objectAt(tb, path)
	s := New(Options{})
	found := map[string]bool{}
	for _, sym := range symbolsOf(tb, path) {
		if sym.Size > 1 {
			found[nameAt(tb, s, nil, o, sym.Value+1)[0].Function] = true
		}
	}
	return found
}
