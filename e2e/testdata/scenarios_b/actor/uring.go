package main

import (
	"encoding/binary"
	"flag"
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From include/uapi/linux/io_uring.h.
const (
	opAccept, opRecv = 13, 27
	sqeFixedFile     = 1 << 0
	enterGetEvents   = 1 << 0
	registerFiles    = 2
	offSQRing        = 0
	offCQRing        = 0x8000000
	offSQEs          = 0x10000000
	fileIndexAlloc   = ^uint32(0)
	sqeSize, cqeSize = 64, 16
)

type ringParams struct {
	sqEntries, cqEntries, flags, cpu, idle, features, wq uint32
	_                                                    [3]uint32
	sq, cq                                               struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
}

// ring is one io_uring, used by one thread.
type ring struct {
	fd             int
	sq, cq, sqes   []byte
	p              ringParams
	buffer         []byte
	toSubmit, done uint32
}

func newRing(entries uint32, slots int) (*ring, error) {
	r := &ring{}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&r.p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", errno)
	}
	r.fd = int(fd)
	var err error
	mmap := func(offset int64, size uint32) (m []byte) {
		if err == nil {
			m, err = unix.Mmap(r.fd, offset, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
		}
		return m
	}
	r.sq = mmap(offSQRing, r.p.sq.array+4*r.p.sqEntries)
	// For the completion queue "flags" is where the entries begin: the fields' order differs.
	r.cq = mmap(offCQRing, r.p.cq.dropped+cqeSize*r.p.cqEntries)
	r.sqes = mmap(offSQEs, sqeSize*r.p.sqEntries)
	if err == nil {
		r.buffer, err = unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	}
	if err != nil {
		return nil, fmt.Errorf("map io_uring: %w", err)
	}
	empty := make([]int32, slots)
	for i := range empty {
		empty[i] = -1
	}
	_, _, errno = unix.Syscall6(unix.SYS_IO_URING_REGISTER, fd, registerFiles, uintptr(unsafe.Pointer(&empty[0])), uintptr(slots), 0, 0)
	if errno != 0 {
		return nil, fmt.Errorf("register files: %w", errno)
	}
	return r, nil
}

func word(m []byte, offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&m[offset])) }

// push writes one entry; it is submitted by the next wait.
func (r *ring) push(op, flags byte, fd int32, addr uint64, n uint32, data uint64, index uint32) {
	tail := atomic.LoadUint32(word(r.sq, r.p.sq.tail))
	slot := tail & *word(r.sq, r.p.sq.mask)
	e := r.sqes[slot*sqeSize : (slot+1)*sqeSize]
	clear(e)
	e[0], e[1] = op, flags
	binary.NativeEndian.PutUint32(e[4:], uint32(fd))
	binary.NativeEndian.PutUint64(e[16:], addr)
	binary.NativeEndian.PutUint32(e[24:], n)
	binary.NativeEndian.PutUint64(e[32:], data)
	binary.NativeEndian.PutUint32(e[44:], index)
	*word(r.sq, r.p.sq.array+4*slot) = slot
	atomic.StoreUint32(word(r.sq, r.p.sq.tail), tail+1)
	r.toSubmit++
}

// accept takes the next connection into a fixed file the kernel chooses.
func (r *ring) accept(listener int) {
	r.push(opAccept, 0, int32(listener), 0, 0, acceptData, fileIndexAlloc)
}

// recv reads from a fixed file; what comes is thrown away.
func (r *ring) recv(slot int32) {
	r.push(opRecv, sqeFixedFile, slot, uint64(uintptr(unsafe.Pointer(&r.buffer[0]))), uint32(len(r.buffer)), uint64(slot), 0)
}

// acceptData marks the completion of an accept; others carry their slot.
const acceptData = 1 << 32

// wait submits and returns the next completion.
func (r *ring) wait() (data uint64, result int32, err error) {
	for {
		head := atomic.LoadUint32(word(r.cq, r.p.cq.head))
		if head != atomic.LoadUint32(word(r.cq, r.p.cq.tail)) && r.toSubmit == 0 {
			at := r.p.cq.dropped + cqeSize*(head&*word(r.cq, r.p.cq.mask))
			data = binary.NativeEndian.Uint64(r.cq[at:])
			result = int32(binary.NativeEndian.Uint32(r.cq[at+8:]))
			atomic.StoreUint32(word(r.cq, r.p.cq.head), head+1)
			return data, result, nil
		}
		n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(r.toSubmit), 1, enterGetEvents, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return 0, 0, fmt.Errorf("io_uring_enter: %w", errno)
		}
		if errno == 0 {
			r.toSubmit -= uint32(n)
		}
	}
}

// uring is a server that has no descriptor of its connections: it accepts them into fixed
// files of an io_uring. With -do forget it reads to the end and keeps them, with deaf it never
// reads. It prints "told N" when N connections were told their end.
func uring(args []string) error {
	fs := flag.NewFlagSet("uring", flag.ContinueOnError)
	do := fs.String("do", "forget", "forget or deaf")
	if err := fs.Parse(args); err != nil {
		return err
	}
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	if err := unix.Listen(listener, 256); err != nil {
		return err
	}
	at, err := unix.Getsockname(listener)
	if err != nil {
		return err
	}
	say("port %d", at.(*unix.SockaddrInet4).Port)
	return first(untilEnd, func() error { return serveRing(listener, *do == "forget") })
}

func serveRing(listener int, reads bool) error {
	runtime.LockOSThread()
	r, err := newRing(256, 211)
	if err != nil {
		return err
	}
	r.accept(listener)
	for {
		data, result, err := r.wait()
		switch {
		case err != nil:
			return err
		case result < 0:
			return fmt.Errorf("completion of %#x: %w", data, unix.Errno(-result))
		case data == acceptData:
			if reads {
				r.recv(result)
			} else {
				r.done++
				say("accepted %d", r.done)
			}
			r.accept(listener)
		case result > 0:
			r.recv(int32(data))
		default:
			r.done++
			say("told %d", r.done)
		}
	}
}
