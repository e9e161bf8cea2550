package python

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/object"
	"github.com/tcpwaitd/tcpwaitd/internal/symbol/python/proctest"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// interpreterVersions are the versions of CPython we say we know.
var interpreterVersions = []string{"3.11", "3.12", "3.13", "3.14"}

// modules are Go modules that hold builds of CPython (python-build-standalone): a way to get
// one that needs nothing but the Go module proxy. 75 to 115 MB each.
var modules = map[string]string{
	"3.11": "github.com/kluctl/go-embed-python@v0.0.0-3.11.11-20241219-1",
	"3.12": "github.com/kluctl/go-embed-python@v0.0.0-3.12.3-20240415-1",
	"3.13": "github.com/kluctl/go-embed-python@v0.0.0-3.13.1-20241219-1",
	"3.14": "github.com/kluctl/go-embed-python@v0.0.0-3.14.6-20260610-1",
}

// fetchTime bounds a download.
const fetchTime = 3 * time.Minute

// each runs a test with every interpreter of every version: those installed, and one from
// the module where none is.
func each(t *testing.T, test func(t *testing.T, version, interpreter string)) {
	t.Helper()
	for _, version := range interpreterVersions {
		t.Run(version, func(t *testing.T) {
			found := installed(version)
			if len(found) == 0 {
				found = []string{fetched(t, version)}
			}
			for _, interpreter := range found {
				t.Run(strings.ReplaceAll(interpreter, "/", "_"), func(t *testing.T) {
					test(t, version, interpreter)
				})
			}
		})
	}
}

// installed returns the interpreters of a version on this machine.
func installed(version string) []string {
	home, _ := os.UserHomeDir()
	candidates, _ := filepath.Glob(filepath.Join(home, ".pyenv/versions", version+".*", "bin/python3"))
	candidates = append(candidates, "/usr/bin/python"+version, "/usr/local/bin/python"+version)
	var found []string
	for _, c := range candidates {
		if _, err := os.Stat(c); err == nil {
			found = append(found, c)
		}
	}
	return found
}

var fetchOnce sync.Mutex

// fetched returns the interpreter of the module, unpacked into the user's cache directory.
func fetched(t *testing.T, version string) string {
	t.Helper()
	fetchOnce.Lock()
	defer fetchOnce.Unlock()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = t.TempDir()
	}
	_, tag, _ := strings.Cut(modules[version], "@")
	dir := filepath.Join(cache, "tcpwaitd-test", "python-"+tag)
	interpreter := filepath.Join(dir, "bin/python"+version)
	if _, err := os.Stat(interpreter); err == nil {
		return interpreter
	}
	source, err := download(modules[version])
	if err != nil {
		testenv.Skip(t, "python"+version, err.Error())
	}
	// Renamed when whole: a test that was stopped leaves nothing half.
	part := dir + ".part"
	_ = os.RemoveAll(part)
	if err := unpack(filepath.Join(source, "python/internal/data/linux-amd64"), part); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(part, dir); err != nil {
		t.Fatal(err)
	}
	return interpreter
}

// download has go put a module into its cache, and returns where.
func download(module string) (dir string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", module)
	// Outside of any module: this one is no dependency.
	cmd.Dir = os.TempDir()
	out, err := cmd.Output()
	var answer struct{ Dir, Error string }
	if jsonErr := json.Unmarshal(out, &answer); jsonErr != nil {
		return "", fmt.Errorf("go mod download %s: %w", module, errors.Join(err, jsonErr))
	}
	if answer.Error != "" {
		return "", fmt.Errorf("go mod download %s: %s", module, answer.Error)
	}
	return answer.Dir, nil
}

// unpack copies a tree; what ends in .gz is unpacked.
func unpack(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, relative)
		if d.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		return unpackFile(path, target)
	})
}

func unpackFile(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	var content io.Reader = f
	if name, ok := strings.CutSuffix(to, ".gz"); ok {
		to = name
		if content, err = gzip.NewReader(f); err != nil {
			return err
		}
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, content)
	return errors.Join(err, out.Close())
}

// script is a running Python program.
type script struct {
	pid   int
	lines *bufio.Reader // its standard output
}

// start runs a program, whose standard input stays open until the test ends.
func start(tb testing.TB, interpreter string, args ...string) *script {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), interpreter, args...)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "PYTHONUTF8=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &script{pid: cmd.Process.Pid, lines: bufio.NewReader(stdout)}
}

// line reads a line of JSON.
func (s *script) line(tb testing.TB, to any) {
	tb.Helper()
	line, err := s.lines.ReadBytes('\n')
	if err != nil {
		tb.Fatalf("the program said nothing: %v", err)
	}
	if err := json.Unmarshal(line, to); err != nil {
		tb.Fatalf("%s: %v", line, err)
	}
}

// process describes the program as it is now.
func (s *script) process(tb testing.TB) *object.Process {
	tb.Helper()
	return proctest.Process(tb, s.pid)
}
