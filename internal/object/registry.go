package object

import (
	"container/list"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// maxObjects bounds the files kept open: a host with more different programs and
// libraries under TCP sockets than that loses names of those used last the longest ago.
const maxObjects = 2048

// maxID is what fits into a frame: 19 bits.
const maxID = 1<<19 - 1

// Registry knows every file once. It is safe for concurrent use.
type Registry struct {
	proc string

	mu     sync.Mutex
	byKey  map[Key]*list.Element // of *Object
	byID   map[event.ObjectID]*list.Element
	used   *list.List // most recently used first
	last   event.ObjectID
	failed map[Key]error
}

// NewRegistry returns an empty one. proc is where procfs is mounted.
func NewRegistry(proc string) *Registry {
	return &Registry{
		proc: proc, used: list.New(), failed: map[Key]error{},
		byKey: map[Key]*list.Element{}, byID: map[event.ObjectID]*list.Element{},
	}
}

// Get returns the object with that number, nil if it is not known any more.
func (r *Registry) Get(id event.ObjectID) *Object {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.touch(r.byID[id])
}

func (r *Registry) touch(e *list.Element) *Object {
	if e == nil {
		return nil
	}
	r.used.MoveToFront(e)
	return e.Value.(*Object)
}

// maxFailed bounds the memory of files that cannot be opened.
const maxFailed = 4096

// Open returns the object behind a mapping of a process, opening it if it is new. A file
// that could not be opened is not tried again until it is mapped by somebody else: the
// error is remembered, except when the process is gone.
func (r *Registry) Open(pid uint32, vma *VMA) (*Object, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o := r.touch(r.byKey[vma.Key]); o != nil {
		return o, nil
	}
	if err := r.failed[vma.Key]; err != nil {
		return nil, err
	}
	return r.add(pid, vma.Key, filepath.Join("map_files", fmt.Sprintf("%x-%x", vma.Start, vma.End)))
}

// OpenProgram returns the program that a process runs. It is faster than looking for its
// mapping, for a process that may be gone in a moment. If it is, the program is looked for at the
// path by which it was started, if that is absolute.
func (r *Registry) OpenProgram(pid uint32, key Key, path string) (*Object, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o := r.touch(r.byKey[key]); o != nil {
		return o, nil
	}
	o, err := r.add(pid, key, "exe")
	if !errors.Is(err, fs.ErrNotExist) || !filepath.IsAbs(path) {
		return o, err
	}
	if o, err = r.openPath(path, &key); err != nil {
		return nil, err
	}
	return r.keep(key, o)
}

// openPath opens a file that may be another one by now, or be named so elsewhere only. Nothing else
// is opened: opening is enough to make some devices act.
func (r *Registry) openPath(path string, key *Key) (*Object, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open program %s: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("open program %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Ino != key.Ino || uint64(st.Ctim.Nano()) != key.Ctime {
		return nil, fmt.Errorf("open program %s: it is another one: %w", path, fs.ErrNotExist)
	}
	return open(filepath.Join(r.proc, "self/fd", strconv.Itoa(fd)), key.Ino)
}

// add opens a link in the directory of a process.
func (r *Registry) add(pid uint32, key Key, link string) (*Object, error) {
	o, err := open(filepath.Join(r.proc, strconv.FormatUint(uint64(pid), 10), link), key.Ino)
	if err == nil {
		o.Path = r.asSeenBy(pid, o.Path)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) && len(r.failed) < maxFailed {
			r.failed[key] = err
		}
		return nil, err
	}
	return r.keep(key, o)
}

// keep gives an object its number; if there is none, the file is closed.
func (r *Registry) keep(key Key, o *Object) (*Object, error) {
	if r.last == maxID {
		_ = o.File.Close()
		return nil, errors.New("open mapped file: no numbers left; restart")
	}
	r.last++
	o.ID, o.Key = r.last, key
	e := r.used.PushFront(o)
	r.byKey[o.Key], r.byID[o.ID] = e, e
	r.shrink()
	return o, nil
}

// asSeenBy cuts off the root directory of a process that has one of its own.
func (r *Registry) asSeenBy(pid uint32, path string) string {
	root, err := os.Readlink(filepath.Join(r.proc, strconv.FormatUint(uint64(pid), 10), "root"))
	if err != nil || root == "/" {
		return path
	}
	if rest, below := strings.CutPrefix(path, root); below && strings.HasPrefix(rest, "/") {
		return rest
	}
	return path
}

// open follows the kernel's own link, which needs no path and no mount namespace. What
// is mapped as code is a regular file.
func open(path string, ino uint64) (*Object, error) {
	name, err := os.Readlink(path)
	if errors.Is(err, unix.ESRCH) {
		// It is ending right now.
		err = errors.Join(err, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("open mapped file: %w", err)
	}
	f, err := os.OpenFile(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open mapped file %s: %w", name, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("open mapped file %s: not a regular file", name)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); err == nil && ok && st.Ino != ino {
		// The pid was used again, or the process runs another program by now.
		err = fmt.Errorf("open mapped file %s: it is another one: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Object{Path: strings.TrimSuffix(name, " (deleted)"), File: f}, nil
}

func (r *Registry) shrink() {
	for r.used.Len() > maxObjects {
		e := r.used.Back()
		o := r.used.Remove(e).(*Object)
		delete(r.byKey, o.Key)
		delete(r.byID, o.ID)
		_ = o.File.Close()
	}
}

// Close closes every file.
func (r *Registry) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for e := r.used.Front(); e != nil; e = e.Next() {
		errs = append(errs, e.Value.(*Object).File.Close())
	}
	r.used.Init()
	clear(r.byKey)
	clear(r.byID)
	return errors.Join(errs...)
}
