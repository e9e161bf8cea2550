package owner

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

const fdinfo = "pos:\t0\nflags:\t02000002\nSqThread:\t-1\nUserFiles:\t4\n" +
	"    1: socket:[4622098]\n    3: socket:[17]\n    4: /dev/null\n    5: TCP\nUserBufs:\t2\n    6: socket:[99]\n"

func TestFixedSockets(t *testing.T) {
	for _, tt := range []struct {
		info string
		want map[int32]uint64
	}{
		{fdinfo, map[int32]uint64{1: 4622098, 3: 17}},
		{"", map[int32]uint64{}},
		{"UserFiles:\t1\n    0: socket:[1]\n", map[int32]uint64{}},
		{"x\nUserFiles:\t0\nUserBufs:\t0\n", map[int32]uint64{}},
		{"x\nUserFiles:\t1\n    0: socket:[1", map[int32]uint64{}},
	} {
		if got := fixedSockets([]byte(tt.info)); !maps.Equal(got, tt.want) {
			t.Errorf("fixedSockets(%q) = %v, want %v", tt.info, got, tt.want)
		}
	}
}

func FuzzFixedSockets(f *testing.F) {
	f.Add([]byte(fdinfo))
	f.Fuzz(func(_ *testing.T, info []byte) { fixedSockets(info) })
}

// The kernel's own words: a socket that only an io_uring refers to is found.
func TestFixedFiles(t *testing.T) {
	const slot = 2
	inode := registerSocket(t, slot)
	want := map[uint64]bool{inode: true}
	if !namesFixed(t, inode) {
		if found := FixedFiles(t.Context(), "/proc", want, nil); len(found) > 0 {
			t.Errorf("found %v, where the kernel does not say which socket it is", found)
		}
		return
	}
	for _, first := range [][]uint32{nil, {uint32(os.Getpid())}} {
		found := FixedFiles(t.Context(), "/proc", want, first)
		if len(found[inode]) != 1 {
			t.Fatalf("found %v, want inode %d", found, inode)
		}
		h := found[inode][0]
		if h.Pid != uint32(os.Getpid()) || h.FD != slot || h.Start == 0 || h.Comm.String() == "" {
			t.Errorf("found %+v, want pid %d, slot %d", h, os.Getpid(), slot)
		}
	}
}

// namesFixed reports whether this kernel says which socket a slot has.
func namesFixed(t *testing.T, inode uint64) bool {
	t.Helper()
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range infos {
		// Some were descriptors of Glob's own.
		if info, err := os.ReadFile(path); err == nil && strings.Contains(string(info), fmt.Sprintf("socket:[%d]", inode)) {
			return true
		}
	}
	return false
}

// registerSocket puts a socket into an io_uring and closes its descriptor.
func registerSocket(t *testing.T, slot int) (inode uint64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	const params = 120 // sizeof(struct io_uring_params)
	var room [params]byte
	ring, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 8, uintptr(unsafe.Pointer(&room)), 0)
	if errno != 0 {
		t.Fatalf("io_uring_setup: %v", errno)
	}
	t.Cleanup(func() { _ = unix.Close(int(ring)) })
	fds := make([]int32, slot+1)
	for i := range fds {
		fds[i] = -1
	}
	fds[slot] = int32(f.Fd())
	const registerFiles = 2 // IORING_REGISTER_FILES
	if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, ring, registerFiles,
		uintptr(unsafe.Pointer(&fds[0])), uintptr(len(fds)), 0, 0); errno != 0 {
		t.Fatalf("io_uring_register: %v", errno)
	}
	if err := errors.Join(l.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}
