package symbol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Bounds of downloads.
const (
	fetchTimeout    = 30 * time.Second // of one file from one server
	maxFetch        = 512 << 20        // bytes of a file
	maxFetchCache   = 4 << 30          // bytes of all files kept
	maxFetchErrors  = 3                // in a row: then a server is not asked again
	maxFetchMissing = 4096             // build ids that no server knows, remembered
)

// errNotFound says that the servers were asked and none has the file.
var errNotFound = errors.New("no debuginfod server has it")

// debuginfod fetches debug files by build id: the protocol is an HTTP GET of
// URL/buildid/ID/debuginfo. What it tells the servers is which programs run here.
type debuginfod struct {
	dir    string
	client *http.Client

	mu      sync.Mutex // one download at a time
	servers []server
	missing map[string]bool
}

type server struct {
	url    string
	errors int // in a row
}

// newDebuginfod keeps files in the directory dir, "" for the default.
func newDebuginfod(urls []string, dir string) *debuginfod {
	d := &debuginfod{dir: dir, missing: map[string]bool{}, client: &http.Client{Timeout: fetchTimeout}}
	if d.dir == "" {
		d.dir = defaultCache()
	}
	for _, u := range urls {
		d.servers = append(d.servers, server{url: strings.TrimRight(u, "/")})
	}
	return d
}

func defaultCache() string {
	base := os.Getenv("XDG_CACHE_HOME")
	if !filepath.IsAbs(base) {
		base = "/var/cache"
	}
	return filepath.Join(base, "tcpwaitd", "debuginfod")
}

// open returns the debug file for a build id, from the cache or from a server.
func (d *debuginfod) open(buildID string) (*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.missing[buildID] {
		return nil, errNotFound
	}
	// The directory can be a user's who is not us: no way out of it by links.
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make debuginfod cache: %w", err)
	}
	dir, err := os.OpenRoot(d.dir)
	if err != nil {
		return nil, fmt.Errorf("open debuginfod cache: %w", err)
	}
	defer dir.Close()
	name := buildID + debugExt
	if file, err := openCached(dir, name, buildID); err == nil {
		return file, nil
	}
	if err := d.fetch(dir, buildID, name); err != nil {
		if len(d.missing) < maxFetchMissing {
			d.missing[buildID] = true
		}
		return nil, fmt.Errorf("fetch debug file %s: %w", buildID, err)
	}
	prune(dir, name)
	return openCached(dir, name, buildID)
}

func openCached(dir *os.Root, name, buildID string) (*os.File, error) {
	st, err := dir.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errNotRegular
	}
	// Which files are used tells prune which ones to keep.
	now := time.Now()
	_ = dir.Chtimes(name, now, now)
	file, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	if err := checkBuildID(file, buildID); err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

func checkBuildID(file *os.File, buildID string) error {
	size, err := fileSize(file)
	if err != nil {
		return err
	}
	f, err := parseELF(file, size)
	if err != nil {
		return err
	}
	if f.buildID != buildID {
		return fmt.Errorf("build id %q: %w", f.buildID, errBuildID)
	}
	return nil
}

// fetch asks one server after the other.
func (d *debuginfod) fetch(dir *os.Root, buildID, name string) error {
	errs := []error{errNotFound}
	for i := range d.servers {
		s := &d.servers[i]
		if s.errors >= maxFetchErrors {
			continue
		}
		err := d.get(dir, s.url, buildID, name)
		if err == nil {
			s.errors = 0
			return nil
		}
		if errors.Is(err, errNotFound) {
			s.errors = 0
			continue
		}
		s.errors++
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// get downloads into a file, completely and the right one or not at all.
func (d *debuginfod) get(dir *os.Root, url, buildID, name string) error {
	url += "/buildid/" + buildID + "/debuginfo"
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	answer, err := d.client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	switch {
	case answer.StatusCode == http.StatusNotFound:
		return errNotFound
	case answer.StatusCode != http.StatusOK:
		return fmt.Errorf("get %s: %s", url, answer.Status)
	case answer.ContentLength > maxFetch:
		return fmt.Errorf("get %s: %d bytes: %w", url, answer.ContentLength, errTooLarge)
	}
	part := name + ".part"
	_ = dir.Remove(part)
	file, err := dir.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(file, io.LimitReader(answer.Body, maxFetch+1))
	if err == nil && n > maxFetch {
		err = fmt.Errorf("get %s: %w", url, errTooLarge)
	}
	if err == nil {
		err = checkBuildID(file, buildID)
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = dir.Rename(part, name)
	}
	if err != nil {
		_ = dir.Remove(part)
	}
	return err
}

// prune removes the files that were not used for longest, but not the one of that name,
// until the rest is not more than is kept.
func prune(dir *os.Root, keep string) {
	list, err := os.ReadDir(dir.Name())
	if err != nil {
		return
	}
	var files []os.FileInfo
	total := int64(0)
	for _, entry := range list {
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() && strings.HasSuffix(info.Name(), debugExt) {
			files = append(files, info)
			total += info.Size()
		}
	}
	slices.SortFunc(files, func(a, b os.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, f := range files {
		if total <= maxFetchCache {
			return
		}
		if f.Name() != keep && dir.Remove(f.Name()) == nil {
			total -= f.Size()
		}
	}
}
