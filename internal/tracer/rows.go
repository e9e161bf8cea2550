package tracer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/radix"
)

// rows are what the iterators wrote, as they wrote it: a million sockets fit in memory, and
// what nobody asks for is never decoded.
type rows struct {
	sockets socketRows

	// tasks are those that hold a socket, held their descriptors.
	tasks []event.Task
	held  []held
	// index is of held; sortHolders makes it.
	index     event.CookieIndex
	listening []event.Listening
	// spots are the namespaces in which a task holds sockets.
	spots    map[spot]bool
	lastSpot spot

	passed []passed
	// passedCut: there was more than passed.
	passedCut bool
}

// held is one descriptor.
type held struct {
	cookie event.Cookie
	// task is an index, listening 1 + an index, 0 of any other socket.
	task, listening uint32
	fd              int32
	state           event.State
	// owns: the kernel side made the task the socket's owner, because it holds it.
	owns bool
}

type spot struct{ task, netns uint32 }

// chunked is a list whose elements keep their places: growing moves nothing.
type chunked[T any] struct {
	chunks [][]T
	n      int
}

const chunkLen = 4096

func (c *chunked[T]) at(i int) *T { return &c.chunks[i/chunkLen][i%chunkLen] }

// grow adds a zero element.
func (c *chunked[T]) grow() *T {
	if c.n/chunkLen == len(c.chunks) {
		c.chunks = append(c.chunks, make([]T, chunkLen))
	}
	c.n++
	return c.at(c.n - 1)
}

// socketRows are rows, and what some have beside: 1 + its index is in the row.
type socketRows struct {
	chunked[bpfSocketRow]
	more chunked[bpfSocketMore]
}

// add copies what it is given; more may be nil.
func (s *socketRows) add(row *bpfSocketRow, more *bpfSocketMore) {
	s.replace(s.grow(), row, more)
}

// replace makes a row what another one is.
func (s *socketRows) replace(to, row *bpfSocketRow, more *bpfSocketMore) {
	*to = *row
	to.More = 0
	if more != nil {
		*s.more.grow() = *more
		to.More = uint32(s.more.n)
	}
}

func (s *socketRows) moreOf(row *bpfSocketRow) *bpfSocketMore {
	if row.More == 0 {
		return nil
	}
	return s.more.at(int(row.More - 1))
}

// read decodes one row.
func (s *socketRows) read(i int, to *event.Socket) {
	row := s.at(i)
	more := s.moreOf(row)
	if more == nil {
		more = &bpfSocketMore{}
	}
	decodeSocket(row, more, to)
}

// keep drops the rows from number first on that f does not want.
func (s *socketRows) keep(first int, f func(*bpfSocketRow) bool) {
	kept := first
	for i := first; i < s.n; i++ {
		row := s.at(i)
		if !f(row) {
			continue
		}
		if kept != i {
			*s.at(kept) = *row
		}
		kept++
	}
	s.n = kept
}

// readAll takes rows until EOF. One may be split between two reads.
func (r *rows) readAll(ctx context.Context, from io.Reader) error {
	buf := make([]byte, readBuffer)
	var have int
	for ctx.Err() == nil {
		n, err := from.Read(buf[have:])
		rest, bad := r.take(buf[:have+n])
		if bad != nil {
			return bad
		}
		have = copy(buf, rest)
		switch {
		case errors.Is(err, unix.EAGAIN):
			// The kernel met a million sockets without one that is wanted, and goes on.
		case errors.Is(err, io.EOF) && have == 0:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%d bytes left over: %w", have, io.ErrUnexpectedEOF)
		case err != nil:
			return err
		}
	}
	return ctx.Err()
}

// take takes as many whole rows as b holds and returns the rest.
func (r *rows) take(b []byte) ([]byte, error) {
	for len(b) >= 8 {
		size := rowSize(b)
		switch {
		case size == 0:
			return b, fmt.Errorf("decode snapshot: unknown row kind %d", *(*uint32)(unsafe.Pointer(&b[0])))
		case len(b) < size:
			return b, nil
		}
		if err := r.takeRow(b[:size]); err != nil {
			return b, err
		}
		b = b[size:]
	}
	return b, nil
}

// rowSize is the length of the row that begins with b, 0 unknown.
func rowSize(b []byte) int {
	switch *(*uint32)(unsafe.Pointer(&b[0])) {
	case rowSocket:
		if (*bpfSocketRow)(unsafe.Pointer(&b[0])).Flags&socketMore != 0 {
			return socketRowSize + socketMoreSize
		}
		return socketRowSize
	case rowHolder:
		return holderRowSize
	case rowHolding:
		return holdingRowSize
	case rowListening:
		return listeningRowSize
	case rowPassed:
		return passedRowSize
	default:
		return 0
	}
}

var errNobodys = errors.New("decode snapshot: a descriptor comes before the task that holds it")

func (r *rows) takeRow(b []byte) error {
	at := unsafe.Pointer(&b[0])
	switch *(*uint32)(at) {
	case rowSocket:
		var more *bpfSocketMore
		if len(b) > socketRowSize {
			more = (*bpfSocketMore)(unsafe.Pointer(&b[socketRowSize]))
		}
		r.sockets.add((*bpfSocketRow)(at), more)
	case rowHolding:
		r.tasks = append(r.tasks, taskOf(&(*bpfHoldingRow)(at).Task))
	case rowPassed:
		r.addPassed((*bpfPassedRow)(at))
	default:
		if len(r.tasks) == 0 {
			return errNobodys
		}
		if *(*uint32)(at) == rowHolder {
			r.addHolder((*bpfHolderRow)(at))
		} else {
			r.addListening((*bpfListeningRow)(at))
		}
	}
	return nil
}

func (r *rows) addHolder(c *bpfHolderRow) {
	task := uint32(len(r.tasks) - 1)
	r.held = append(doubled(r.held), held{
		cookie: event.Cookie(c.Cookie), task: task, fd: c.Fd, state: event.State(c.State), owns: c.Owns != 0,
	})
	r.visit(spot{task, c.Netns})
}

func (r *rows) addListening(c *bpfListeningRow) {
	task := uint32(len(r.tasks) - 1)
	r.listening = append(r.listening, event.Listening{
		Inode: c.Inode, Flow: flowOf(&c.Flow, c.Protocol), QueueLen: c.QueueLen, QueueMax: c.QueueMax,
	})
	r.held = append(doubled(r.held), held{
		cookie: event.Cookie(c.Cookie), task: task, fd: c.Fd, state: event.Listen,
		listening: uint32(len(r.listening)),
	})
	r.visit(spot{task, c.Flow.Netns})
}

func (r *rows) visit(s spot) {
	if s == r.lastSpot && r.spots != nil {
		return
	}
	if r.spots == nil {
		r.spots = map[spot]bool{}
	}
	r.spots[s], r.lastSpot = true, s
}

// doubled makes room: append itself grows large slices by a quarter, which copies them five
// times over.
func doubled[T any](list []T) []T {
	if len(list) < cap(list) {
		return list
	}
	return slices.Grow(list, max(256, len(list)))
}

// addHolders adds the descriptors of another pass that are wanted.
func (r *rows) addHolders(of *rows, wanted func(event.Cookie) bool) {
	tasks, listening := uint32(len(r.tasks)), uint32(len(r.listening))
	r.tasks = append(r.tasks, of.tasks...)
	r.listening = append(r.listening, of.listening...)
	for s := range of.spots {
		r.visit(spot{s.task + tasks, s.netns})
	}
	for _, h := range of.held {
		if !wanted(h.cookie) {
			continue
		}
		h.task += tasks
		if h.listening != 0 {
			h.listening += listening
		}
		r.held = append(doubled(r.held), h)
	}
}

// addSockets adds the sockets of another pass that are wanted.
func (r *rows) addSockets(of *rows, wanted func(*bpfSocketRow) bool) {
	for i := range of.sockets.n {
		if row := of.sockets.at(i); wanted(row) {
			r.sockets.add(row, of.sockets.moreOf(row))
		}
	}
}

// sortHolders orders descriptors by cookie, pid and number, and indexes them. The kernel goes by
// the last two.
func (r *rows) sortHolders() {
	byProcess := func(a, b held) int {
		if a.task != b.task {
			if c := cmp.Compare(r.tasks[a.task].Pid, r.tasks[b.task].Pid); c != 0 {
				return c
			}
		}
		return cmp.Compare(a.fd, b.fd)
	}
	if !slices.IsSortedFunc(r.held, byProcess) {
		slices.SortFunc(r.held, byProcess)
	}
	sorted := sortByCookie(r.held)
	r.held, r.index = sorted, event.NewCookieIndex(len(sorted), func(i int) event.Cookie { return sorted[i].cookie })
}

// ownHeld gives the sockets their owners that the pass over descriptors found, which came after
// the one over sockets.
func (r *rows) ownHeld() {
	for i := range r.sockets.n {
		row := r.sockets.at(i)
		more := r.sockets.moreOf(row)
		if more == nil || row.Evidence != 0 {
			continue
		}
		cookie := event.Cookie(row.Cookie)
		for at := r.index.First(cookie); at >= 0 && at < len(r.held) && r.held[at].cookie == cookie; at++ {
			if h := &r.held[at]; h.owns {
				row.Evidence, more.Owner = uint8(event.EvidenceScan), bpfTaskOf(&r.tasks[h.task])
				break
			}
		}
	}
}

// sortByCookie is stable.
func sortByCookie(list []held) []held {
	return radix.Sort(list, func(h *held) uint64 { return uint64(h.cookie) })
}

// holders returns the descriptors in their order.
func (r *rows) holders() []event.Holder {
	all := make([]event.Holder, len(r.held))
	for i := range r.held {
		h := &r.held[i]
		all[i] = event.Holder{Task: r.tasks[h.task], FD: h.fd, Cookie: h.cookie, State: h.state}
		if h.listening != 0 {
			all[i].Listening = &r.listening[h.listening-1]
		}
	}
	return all
}

// dedupe keeps the first of several rows of one socket among those after the listed.
func (r *rows) dedupe(listed int) {
	if listed == r.sockets.n {
		return
	}
	known := map[uint64]bool{}
	for i := range listed {
		if row := r.sockets.at(i); unlisted(row) {
			known[row.Cookie] = true
		}
	}
	r.sockets.keep(listed, func(row *bpfSocketRow) bool {
		first := !known[row.Cookie]
		known[row.Cookie] = true
		return first
	})
}

// unlisted sockets stand in no table of a namespace.
func unlisted(row *bpfSocketRow) bool {
	return event.State(row.State) == event.Close || event.State(row.State) == event.BoundInactive ||
		event.Protocol(row.Protocol) == event.MPTCP
}

// dateClosed dates the closed sockets that only a listener on their port can.
func (r *rows) dateClosed() {
	type port struct {
		netns uint32
		port  uint16
	}
	listening := map[port]bool{}
	for i := range r.listening {
		f := &r.listening[i].Flow
		listening[port{f.Netns, f.Local.Port()}] = true
	}
	for i := range r.sockets.n {
		row := r.sockets.at(i)
		if undated(row) && listening[port{row.Flow.Netns, row.Flow.Lport}] {
			row.Direction = uint8(event.In)
			closedAtLastAck(row)
		}
	}
}
