package symbol

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// debugServer serves one file for any build id, and counts.
func debugServer(tb testing.TB, path string) (url string, asked *atomic.Int64) {
	tb.Helper()
	asked = &atomic.Int64{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if path == "" {
			http.NotFound(w, r)
			return
		}
		http.ServeFile(w, r, path)
	}))
	tb.Cleanup(server.Close)
	return server.URL, asked
}

func TestDebuginfod(t *testing.T) {
	p := separate(t)
	server := http.NewServeMux()
	var asked atomic.Int64
	server.HandleFunc("GET /buildid/"+p.elf.buildID+"/debuginfo", func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.ServeFile(w, r, p.debug)
	})
	ts := httptest.NewServer(server)
	defer ts.Close()
	cache := filepath.Join(t.TempDir(), "cache")
	none, _ := debugServer(t, "")
	o := objectAt(t, p.program)
	sym := symbolsOf(t, p.original)["do_accept"]
	for range 2 {
		// The second Symbolizer finds it in the cache.
		s := New(Options{Debuginfod: []string{none, ts.URL + "/"}, DebuginfodCache: cache})
		if got := nameAt(t, s, nil, o, sym.Value); got[0].Function != "do_accept" {
			t.Errorf("got %+v", got)
		}
		if _, _, ok := New(Options{}).Function(o, fileOffset(t, p.original, sym.Value)); ok {
			t.Error("bounds from nowhere")
		}
	}
	if asked.Load() != 1 {
		t.Errorf("%d downloads, want 1", asked.Load())
	}
	info, err := os.Stat(filepath.Join(cache, p.elf.buildID+".debug"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("in the cache: %v, %v", info, err)
	}
}

// TestDebuginfodOff: nothing is asked unless it was asked for.
func TestDebuginfodOff(t *testing.T) {
	p := separate(t)
	url, asked := debugServer(t, p.debug)
	t.Setenv("DEBUGINFOD_URLS", url)
	sym := symbolsOf(t, p.original)["do_accept"]
	if got := nameAt(t, New(Options{}), nil, objectAt(t, p.program), sym.Value); got[0].Function != "" || asked.Load() != 0 {
		t.Errorf("got %+v, %d requests", got, asked.Load())
	}
}

func TestDebuginfodFailures(t *testing.T) {
	p, other := separate(t), separate(t, "-O1")
	wrong, _ := debugServer(t, other.debug)
	garbage, _ := debugServer(t, "testdata/server.c")
	none, asked := debugServer(t, "")
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	dir := t.TempDir()
	d := newDebuginfod([]string{wrong, garbage, closed.URL, none}, dir)
	for range 3 {
		if file, err := d.open(p.elf.buildID); err == nil || !errors.Is(err, errNotFound) {
			t.Fatalf("got %v, %v", file, err)
		}
	}
	if asked.Load() != 1 {
		t.Errorf("%d requests for what is not there, want 1", asked.Load())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left in the cache: %v, %v", left, err)
	}
	for _, id := range []string{"01aa", "02aa", "03aa"} {
		_, _ = d.open(id)
	}
	for i, s := range d.servers {
		if failed := i < 3; failed != (s.errors >= maxFetchErrors) {
			t.Errorf("server %d: %d errors", i, s.errors)
		}
	}
}

// TestDebuginfodCache: a damaged file is fetched again, a link is not followed.
func TestDebuginfodCache(t *testing.T) {
	p := separate(t)
	url, asked := debugServer(t, p.debug)
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
	place := filepath.Join(dir, p.elf.buildID+".debug")
	if err := os.WriteFile(place, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, prepare := range []func() error{
		func() error { return nil },
		func() error { return errors.Join(os.Remove(place), os.Symlink(outside, place)) },
	} {
		if err := prepare(); err != nil {
			t.Fatal(err)
		}
		file, err := newDebuginfod([]string{url}, dir).open(p.elf.buildID)
		if err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
		if asked.Load() != int64(i+1) {
			t.Errorf("%d downloads, want %d", asked.Load(), i+1)
		}
	}
	if _, err := os.Lstat(outside); err == nil {
		t.Error("written through a link")
	}
}

func TestDefaultCache(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", "/home/x/.cache")
	if got := defaultCache(); got != "/home/x/.cache/tcpwaitd/debuginfod" {
		t.Error(got)
	}
	t.Setenv("XDG_CACHE_HOME", "")
	if got := defaultCache(); got != "/var/cache/tcpwaitd/debuginfod" {
		t.Error(got)
	}
}

func TestPrune(t *testing.T) {
	path := t.TempDir()
	dir, err := os.OpenRoot(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	// Sparse: three files of half of what is kept.
	for _, name := range []string{"old.debug", "kept.debug", "new.debug", "other.file"} {
		if err := errors.Join(os.WriteFile(filepath.Join(path, name), nil, 0o600), os.Truncate(filepath.Join(path, name), maxFetchCache/2)); err != nil {
			t.Fatal(err)
		}
	}
	prune(dir, "new.debug")
	left, err := os.ReadDir(path)
	if err != nil || len(left) != 3 {
		t.Errorf("left: %v, %v", left, err)
	}
	for _, name := range []string{"new.debug", "other.file"} {
		if _, err := os.Stat(filepath.Join(path, name)); err != nil {
			t.Error(err)
		}
	}
}
