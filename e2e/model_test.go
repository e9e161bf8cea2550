package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

// The randomized test: 53 processes share 503 sockets, which they open, inherit, duplicate,
// pass in messages, read, write and close as a random generator orders. A model keeps what is
// true. tcpwaitd must say the same: of every socket who holds it by which descriptors, why it
// is not closed, and who is to blame.
//
// The model knows the rules of docs/causes.md in its own words; it shares no code with what
// it judges.

const (
	modelProcesses = 53
	modelSockets   = 503
	modelQueued    = 31 // more, which nobody accepts
	modelOrders    = 10007
	modelSeeds     = 3
)

// anyAge makes every wait old enough to be judged.
var anyAge = []string{"--threshold", "1ms"}

func TestModel(t *testing.T) {
	outsideGuests(t)
	first := rand.Uint64()
	seeds := modelSeeds
	if given := os.Getenv("TCPWAITD_SEED"); given != "" {
		var err error
		if first, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatalf("TCPWAITD_SEED: %v", err)
		}
		seeds = 1
	}
	for i := range seeds {
		seed := first + uint64(i)
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Logf("TCPWAITD_SEED=%d", seed)
			modelRun(t, seed)
		})
	}
}

func modelRun(t *testing.T, seed uint64) {
	t.Helper()
	m := newModel(t, seed)
	m.begin(t)
	diagnosed := m.scene.watch(t, anyAge...)
	listed := m.scene.watchSockets(t, anyAge...)
	m.open(t)
	for range modelOrders {
		m.step(t)
	}
	m.finish(t)
	m.summarize(t)

	after := run(t, append([]string{"list", "-o", "json", "--netns", inode(m.scene.ns)}, anyAge...)...)
	m.checkList(t, "list started after", after, false)
	m.checkDiagnosis(t, "diagnose started after", m.scene.diagnose(t, anyAge...), false)
	m.checkList(t, "list watching from before", listed.interrupt(t), true)
	m.checkDiagnosis(t, "diagnose watching from before", m.scene.judge(t, diagnosed), true)
	m.scene.checkList(t, len(m.sockets))
}

// order and answer are those of testdata/scenarios_b/actor/worker.go.
type order struct {
	Op   string `json:"op"`
	FD   int    `json:"fd,omitempty"`
	N    int    `json:"n,omitempty"`
	Port int    `json:"port,omitempty"`
	FDs  []int  `json:"fds,omitempty"`
	To   string `json:"to,omitempty"`
}

type answer struct {
	Pid     int
	FD      int
	Port    int
	N       int
	FDs     []int
	Mailbox string
	Error   string
}

// worker is one process of the model.
type worker struct {
	pid  int
	conn net.Conn
	in   *bufio.Scanner
	// fds are the sockets it holds, by descriptor.
	fds map[int]*shared
	// boxes are the mailboxes it can receive from, by descriptor.
	boxes map[int]*mailbox
	own   *mailbox
	// listeners it can accept from, by descriptor.
	listeners map[int]*listener
}

// listener is a listening socket; holders are the processes that could accept.
type listener struct {
	port    uint16
	holders map[int]bool
}

// mailbox is a unix datagram socket; queue are the messages nobody has received.
type mailbox struct {
	path  string
	queue []*message
}

type message struct {
	sender  int
	sockets []*shared
}

// handle is a descriptor of a process.
type handle struct{ pid, fd int }

// shared is one TCP socket, of which the workers have descriptors.
type shared struct {
	local, remote uint16
	direction     string
	// peer is the test's descriptor of the other end.
	peer    int
	opener  int
	user    int
	told    int
	holders map[handle]bool
	// flying counts the messages it is in.
	flying int
	// unread bytes before the FIN; ended: the FIN has come; passed: a read moved past it.
	unread        int
	ended, passed bool
	// queued in the accept queue of a listener: nobody ever had it.
	queued  *listener
	history []string
}

func (x *shared) note(format string, args ...any) {
	x.history = append(x.history, fmt.Sprintf(format, args...))
}

func (x *shared) String() string {
	return fmt.Sprintf("%d to %d: %s", x.local, x.remote, strings.Join(x.history, ", "))
}

// processes that hold it, in order.
func (x *shared) processes() []int {
	pids := map[int]bool{}
	for h := range x.holders {
		pids[h.pid] = true
	}
	return slices.Sorted(maps.Keys(pids))
}

func (x *shared) heldBy(pid int) bool { return slices.Contains(x.processes(), pid) }

// recvQ is the Recv-Q of ss, which counts the FIN.
func (x *shared) recvQ() int {
	if x.ended && !x.passed {
		return x.unread + 1
	}
	return x.unread
}

type model struct {
	scene   *scene
	rng     *rand.Rand
	dir     string
	orders  net.Listener
	born    map[int]*worker // said hello, not yet looked for
	workers []*worker
	sockets []*shared
	wrote   time.Time
	exits   int
}

func newModel(t *testing.T, seed uint64) *model {
	t.Helper()
	s := newScene(t)
	m := &model{scene: s, rng: rand.New(rand.NewPCG(seed, seed)), dir: t.TempDir(), born: map[int]*worker{}}
	var err error
	if m.orders, err = net.Listen("unix", filepath.Join(m.dir, "orders")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.orders.Close() })
	return m
}

// begin starts the processes that have no parent among them.
func (m *model) begin(t *testing.T) {
	t.Helper()
	for range 11 {
		a := m.scene.play(t, "worker", m.dir)
		m.workers = append(m.workers, m.hello(t, a.pid()))
	}
}

// hello waits until the worker reports.
func (m *model) hello(t *testing.T, pid int) *worker {
	t.Helper()
	for m.born[pid] == nil {
		if err := m.orders.(*net.UnixListener).SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		c, err := m.orders.Accept()
		if err != nil {
			t.Fatalf("worker %d does not report: %v", pid, err)
		}
		t.Cleanup(func() { c.Close() })
		w := &worker{conn: c, in: bufio.NewScanner(c), fds: map[int]*shared{}, boxes: map[int]*mailbox{}, listeners: map[int]*listener{}}
		a := w.answer(t)
		w.pid, w.own = a.Pid, &mailbox{path: a.Mailbox}
		w.boxes[a.FD] = w.own
		m.born[w.pid] = w
	}
	return m.born[pid]
}

func (w *worker) answer(t *testing.T) answer {
	t.Helper()
	if err := w.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if !w.in.Scan() {
		t.Fatalf("worker %d is silent: %v", w.pid, w.in.Err())
	}
	return decode[answer](t, w.in.Text())
}

func (w *worker) do(t *testing.T, o order) answer {
	t.Helper()
	if err := json.NewEncoder(w.conn).Encode(o); err != nil {
		t.Fatalf("worker %d: %v", w.pid, err)
	}
	a := w.answer(t)
	if a.Error != "" {
		t.Fatalf("worker %d: %+v: %s", w.pid, o, a.Error)
	}
	return a
}

// take notes a new descriptor.
func (w *worker) take(x *shared, fd int) {
	w.fds[fd] = x
	x.holders[handle{w.pid, fd}] = true
}

func (w *worker) drop(fd int) *shared {
	x := w.fds[fd]
	delete(w.fds, fd)
	delete(x.holders, handle{w.pid, fd})
	return x
}

// open makes the sockets: every other one accepted, the rest connected, by whichever
// process. The other end is the test's.
func (m *model) open(t *testing.T) {
	t.Helper()
	ours := m.listen(t)
	for i := range modelSockets {
		w := m.workers[m.rng.IntN(len(m.workers))]
		x := &shared{opener: w.pid, direction: "in", holders: map[handle]bool{}}
		var a answer
		if i%2 == 0 {
			if len(w.listeners) == 0 {
				a := w.do(t, order{Op: "listen"})
				w.listeners[a.FD] = &listener{uint16(a.Port), map[int]bool{w.pid: true}}
			}
			for fd, l := range w.listeners {
				x.local = l.port
				x.peer, x.remote = m.connect(t, x.local)
				a = w.do(t, order{Op: "accept", FD: fd})
			}
		} else {
			x.direction, x.remote = "out", portOfFD(t, ours)
			a = w.do(t, order{Op: "connect", Port: int(x.remote)})
			x.local, x.peer = uint16(a.Port), acceptFD(t, ours)
		}
		x.note("%d opens as %d, %s", w.pid, a.FD, x.direction)
		w.take(x, a.FD)
		m.sockets = append(m.sockets, x)
		t.Cleanup(func() { unix.Close(x.peer) })
	}
}

// listen is the test's own end, by plain system calls: the ends must be at the model's
// command alone.
func (m *model) listen(t *testing.T) (fd int) {
	t.Helper()
	m.inScene(t, func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return err
		}
		return unix.Listen(fd, 64)
	})
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func (m *model) connect(t *testing.T, port uint16) (fd int, local uint16) {
	t.Helper()
	m.inScene(t, func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		to := &unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}}
		for {
			if err = unix.Connect(fd, to); err != unix.EINTR && err != unix.EALREADY {
				break
			}
		}
		if err == unix.EISCONN {
			return nil
		}
		return err
	})
	return fd, portOfFD(t, fd)
}

func (m *model) inScene(t *testing.T, fn func() error) {
	t.Helper()
	if err := m.scene.ns.Do(fn); err != nil {
		t.Fatal(err)
	}
}

func acceptFD(t *testing.T, listener int) int {
	t.Helper()
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
}

func portOfFD(t *testing.T, fd int) uint16 {
	t.Helper()
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(at.(*unix.SockaddrInet4).Port)
}

// step gives one random order.
func (m *model) step(t *testing.T) {
	t.Helper()
	w := m.workers[m.rng.IntN(len(m.workers))]
	x, fd := m.pick(w)
	switch m.rng.IntN(10) {
	case 0:
		if m.rng.IntN(5) == 0 {
			m.exit(t, w)
			return
		}
		m.end(t, m.sockets[m.rng.IntN(len(m.sockets))])
	case 1, 2:
		if x != nil {
			m.dup(t, w, x, fd)
		}
	case 3, 4:
		if x != nil {
			m.close(t, w, x, fd)
		}
	case 5:
		if len(m.workers) < modelProcesses {
			m.fork(t, w)
		}
	case 6:
		m.pass(t, w)
	case 7:
		m.receive(t, w)
	case 8:
		if x != nil {
			m.read(t, w, x, fd)
		}
	case 9:
		if x != nil {
			m.write(t, w, x, fd)
		}
	}
}

// pick is one of the descriptors of w, or nil.
func (m *model) pick(w *worker) (*shared, int) {
	if len(w.fds) == 0 {
		return nil, 0
	}
	// Maps have their own randomness, which no seed repeats.
	fds := slices.Sorted(maps.Keys(w.fds))
	fd := fds[m.rng.IntN(len(fds))]
	return w.fds[fd], fd
}

// end ends the peer's side, with or without data in the same segment.
func (m *model) end(t *testing.T, x *shared) {
	t.Helper()
	if x.ended {
		return
	}
	if m.rng.IntN(3) == 0 {
		x.unread = 1 + m.rng.IntN(7)
		// MSG_MORE keeps the data back until the FIN goes with it.
		if err := unix.Sendto(x.peer, make([]byte, x.unread), unix.MSG_MORE, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Shutdown(x.peer, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	x.ended = true
	x.note("the peer ends after %d bytes", x.unread)
}

func (m *model) dup(t *testing.T, w *worker, x *shared, fd int) {
	t.Helper()
	if len(x.holders) >= 5 {
		return
	}
	a := w.do(t, order{Op: "dup", FD: fd})
	x.note("%d duplicates %d as %d", w.pid, fd, a.FD)
	w.take(x, a.FD)
}

// close leaves the last reference alone: closed sockets are no waits.
func (m *model) close(t *testing.T, w *worker, x *shared, fd int) {
	t.Helper()
	if len(x.holders)+x.flying < 2 {
		return
	}
	w.do(t, order{Op: "close", FD: fd})
	x.note("%d closes %d", w.pid, fd)
	w.drop(fd)
}

// fork starts a child that inherits some, and perhaps a mailbox of its parent's.
func (m *model) fork(t *testing.T, w *worker) {
	t.Helper()
	o := order{Op: "fork"}
	var sockets []*shared
	for range m.rng.IntN(13) {
		if x, fd := m.pick(w); x != nil {
			o.FDs, sockets = append(o.FDs, fd), append(sockets, x)
		}
	}
	boxes := m.some(slices.Sorted(maps.Keys(w.boxes)))
	listeners := m.some(slices.Sorted(maps.Keys(w.listeners)))
	o.FDs = slices.Concat(o.FDs, boxes, listeners)
	child := m.hello(t, w.do(t, o).Pid)
	m.workers = append(m.workers, child)
	fd := 3
	for _, x := range sockets {
		x.note("%d inherits from %d as %d", child.pid, w.pid, fd)
		child.take(x, fd)
		fd++
	}
	for _, box := range boxes {
		child.boxes[fd] = w.boxes[box]
		fd++
	}
	for _, l := range listeners {
		child.listeners[fd] = w.listeners[l]
		w.listeners[l].holders[child.pid] = true
		fd++
	}
}

// some of the descriptors: each with one chance in three.
func (m *model) some(fds []int) []int {
	return slices.DeleteFunc(fds, func(int) bool { return m.rng.IntN(3) > 0 })
}

// exit ends a process, if no socket loses its last reference by it.
func (m *model) exit(t *testing.T, w *worker) {
	t.Helper()
	if len(m.workers) < modelProcesses/2 || m.exits == modelProcesses/5 {
		return
	}
	lost := map[*shared]int{}
	for _, x := range w.fds {
		lost[x]++
	}
	m.eachLostMessage(w, func(x *shared) { lost[x]++ })
	for x, count := range lost {
		if len(x.holders)+x.flying <= count {
			return
		}
	}
	// Somebody must be left to accept for: the queue of a listener ends with it.
	for _, l := range w.listeners {
		if len(l.holders) == 1 {
			return
		}
	}
	m.exits++
	m.eachLostMessage(w, func(x *shared) { x.flying-- })
	for _, l := range w.listeners {
		delete(l.holders, w.pid)
	}
	for fd := range maps.Clone(w.fds) {
		w.drop(fd).note("%d ends", w.pid)
	}
	m.workers = slices.DeleteFunc(m.workers, func(other *worker) bool { return other == w })
	if err := w.conn.Close(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() string {
		// One that is ended and not yet waited for has no descriptors any more.
		if fds, err := os.ReadDir(fmt.Sprint("/proc/", w.pid, "/fd")); err == nil && len(fds) > 0 {
			return fmt.Sprintf("worker %d does not end", w.pid)
		}
		return ""
	})
}

// eachLostMessage goes through what is in the mailboxes that only w holds.
func (m *model) eachLostMessage(w *worker, do func(*shared)) {
	for _, box := range w.boxes {
		elsewhere := slices.ContainsFunc(m.workers, func(other *worker) bool {
			return other != w && slices.Contains(slices.Collect(maps.Values(other.boxes)), box)
		})
		if elsewhere {
			continue
		}
		for _, msg := range box.queue {
			for _, x := range msg.sockets {
				do(x)
			}
		}
	}
}

// pass puts some sockets into a mailbox, and perhaps closes them here.
func (m *model) pass(t *testing.T, w *worker) {
	t.Helper()
	to := m.workers[m.rng.IntN(len(m.workers))]
	if len(to.own.queue) >= 5 { // the kernel has room for 10
		return
	}
	o := order{Op: "pass", To: to.own.path}
	msg := &message{sender: w.pid}
	for range 1 + m.rng.IntN(3) {
		if x, fd := m.pick(w); x != nil && !slices.Contains(o.FDs, fd) {
			o.FDs, msg.sockets = append(o.FDs, fd), append(msg.sockets, x)
		}
	}
	if len(o.FDs) == 0 {
		return
	}
	w.do(t, o)
	to.own.queue = append(to.own.queue, msg)
	forget := m.rng.IntN(2) == 0
	for i, x := range msg.sockets {
		x.flying++
		x.note("%d passes %d to the mailbox of %d", w.pid, o.FDs[i], to.pid)
		if forget {
			m.close(t, w, x, o.FDs[i])
		}
	}
}

func (m *model) receive(t *testing.T, w *worker) {
	t.Helper()
	fds := slices.Sorted(maps.Keys(w.boxes))
	fd := fds[m.rng.IntN(len(fds))]
	box := w.boxes[fd]
	if len(box.queue) == 0 {
		return
	}
	msg := box.queue[0]
	box.queue = box.queue[1:]
	a := w.do(t, order{Op: "receive", FD: fd})
	if len(a.FDs) != len(msg.sockets) {
		t.Fatalf("worker %d received %v, want %d descriptors", w.pid, a.FDs, len(msg.sockets))
	}
	for i, x := range msg.sockets {
		x.flying--
		x.note("%d receives it as %d", w.pid, a.FDs[i])
		w.take(x, a.FDs[i])
	}
}

// read never blocks: there are bytes, or the end.
func (m *model) read(t *testing.T, w *worker, x *shared, fd int) {
	t.Helper()
	if !x.ended {
		return
	}
	want := 1 + m.rng.IntN(7)
	got := w.do(t, order{Op: "read", FD: fd, N: want}).N
	x.note("%d reads %d", w.pid, got)
	if got != min(want, x.unread) {
		t.Fatalf("read %d of %d bytes: %v", got, x.unread, x)
	}
	x.user = w.pid
	if got == 0 && x.told == 0 {
		x.told = w.pid
	}
	// Who takes the last byte takes the FIN that came with it, and is not told.
	x.unread -= got
	x.passed = x.unread == 0
}

func (m *model) write(t *testing.T, w *worker, x *shared, fd int) {
	t.Helper()
	if m.rng.IntN(3) > 0 { // rarer than the rest
		return
	}
	w.do(t, order{Op: "write", FD: fd, N: 7})
	x.note("%d writes", w.pid)
	x.user = w.pid
	if x.ended {
		m.wrote = time.Now()
	}
}

// finish brings the number of processes and of waits to what was promised, and waits until
// the kernel agrees.
func (m *model) finish(t *testing.T) {
	t.Helper()
	for len(m.workers) < modelProcesses {
		m.fork(t, m.workers[m.rng.IntN(len(m.workers))])
	}
	m.queue(t)
	for _, x := range m.sockets {
		m.end(t, x)
	}
	m.scene.await(t, modelSockets+modelQueued, "in CLOSE_WAIT", func(r testenv.TCPRow) bool { return r.State == event.CloseWait })
	// Who has just written is not judged: the rule for a half-close that stalls says 1 s.
	time.Sleep(time.Until(m.wrote.Add(1200 * time.Millisecond)))
}

// queue leaves connections to random listeners unaccepted.
func (m *model) queue(t *testing.T) {
	t.Helper()
	var all []*listener
	for _, w := range m.workers {
		for _, fd := range slices.Sorted(maps.Keys(w.listeners)) {
			if l := w.listeners[fd]; !slices.Contains(all, l) {
				all = append(all, l)
			}
		}
	}
	for range modelQueued {
		x := &shared{direction: "in", queued: all[m.rng.IntN(len(all))]}
		x.local = x.queued.port
		x.peer, x.remote = m.connect(t, x.local)
		x.note("nobody of %v accepts it", slices.Sorted(maps.Keys(x.queued.holders)))
		m.sockets = append(m.sockets, x)
		t.Cleanup(func() { unix.Close(x.peer) })
	}
}

// expectation is what the rules make of a socket.
type expectation struct {
	cause   string
	blamed  int
	because string
}

// expect is docs/causes.md in other words. Without having watched only the present is known.
func (x *shared) expect(watched bool) expectation {
	pids := x.processes()
	if x.queued != nil {
		e := expectation{cause: "unaccepted", because: "could accept"}
		if who := slices.Collect(maps.Keys(x.queued.holders)); len(who) == 1 {
			e.blamed = who[0]
		}
		return e
	}
	if len(pids) == 0 {
		return expectation{"in_flight", 0, "in a message"}
	}
	user, told := x.user, x.told
	if !watched {
		user, told = 0, 0
	}
	e := expectation{cause: "eof_ignored"}
	// Who should have it, as far as was seen: who was told, else the last user, else the opener.
	had := told
	if had == 0 {
		had = user
	}
	if had == 0 && watched {
		had = x.opener
	}
	switch q := x.recvQ(); {
	case had != 0 && !x.heldBy(had):
		e.cause = "held_elsewhere"
	case q > 1:
		e.cause = "unread_data"
	case q == 1, watched && told == 0:
		e.cause = "unread_eof"
	}
	switch {
	case told != 0 && x.heldBy(told):
		e.blamed, e.because = told, "was told"
	case user != 0 && x.heldBy(user):
		e.blamed, e.because = user, "used it last"
	case watched && x.heldBy(x.opener):
		e.blamed, e.because = x.opener, "opened it"
	case len(pids) == 1:
		e.blamed, e.because = pids[0], "is the only holder"
	}
	return e
}

// summarize says what the test is worth: how many of each kind it made.
func (m *model) summarize(t *testing.T) {
	t.Helper()
	causes, nobody, several := map[string]int{}, 0, 0
	for _, x := range m.sockets {
		e := x.expect(true)
		causes[e.cause]++
		if e.blamed == 0 {
			nobody++
		}
		if len(x.processes()) > 1 {
			several++
		}
	}
	t.Logf("%d processes, %d exits, %d sockets: %v; %d held by several, %d nobody's fault",
		len(m.workers), m.exits, len(m.sockets), causes, several, nobody)
	for _, cause := range []string{"unaccepted", "unread_data", "unread_eof", "eof_ignored", "held_elsewhere", "in_flight"} {
		if causes[cause] == 0 {
			t.Errorf("the model has no %s", cause)
		}
	}
}

// heldSocket is a socket with the descriptors of its holders.
type heldSocket struct {
	sceneSocket
	Holders []struct{ Pid, FD int }
}

// checkList compares each socket of a list.
func (m *model) checkList(t *testing.T, when string, r result, watched bool) {
	t.Helper()
	found := decode[struct{ Sockets []heldSocket }](t, r.want(t, exitClean).stdout).Sockets
	if len(found) != len(m.sockets) {
		t.Errorf("%s: %d sockets, want %d", when, len(found), len(m.sockets))
	}
	for i := range found {
		if wrong := m.wrong(&found[i], watched); wrong != "" {
			t.Errorf("%s: %s", when, wrong)
		}
	}
}

// wrong says how a socket differs from the model, "" if it does not.
func (m *model) wrong(got *heldSocket, watched bool) string {
	i := slices.IndexFunc(m.sockets, func(x *shared) bool { return x.local == got.Lport && x.remote == got.Rport })
	if i < 0 {
		return fmt.Sprintf("%d to %d is none of ours", got.Lport, got.Rport)
	}
	x := m.sockets[i]
	e := x.expect(watched)
	var is []string
	is = appendUnless(is, "cause", got.Cause, e.cause)
	is = appendUnless(is, "blamed (who "+e.because+")", got.Owner.Pid, e.blamed)
	is = appendUnless(is, "Recv-Q", int(got.RecvQ), x.recvQ())
	if e.blamed == 0 {
		is = appendUnless(is, "evidence", got.Owner.Evidence, "none")
	}
	holders := map[handle]bool{}
	for _, h := range got.Holders {
		holders[handle{h.Pid, h.FD}] = true
	}
	if !maps.Equal(holders, x.holders) || len(got.Holders) != len(x.holders) {
		is = append(is, fmt.Sprintf("holders %v, want %v", got.Holders, x.holders))
	}
	is = append(is, m.wrongFlight(got, x)...)
	if watched {
		is = append(is, wrongParty("opener", got.Opener, x.opener, x)...)
		is = append(is, wrongParty("last user", got.LastUser, x.user, x)...)
		is = append(is, wrongParty("told", got.EOFTold, x.told, x)...)
	}
	if is == nil {
		return ""
	}
	return fmt.Sprintf("%s\n\t%v", strings.Join(is, "; "), x)
}

func appendUnless[T comparable](is []string, what string, got, want T) []string {
	if got == want {
		return is
	}
	return append(is, fmt.Sprintf("%s %v, want %v", what, got, want))
}

// wrongFlight compares who could receive a socket that is in messages only.
func (m *model) wrongFlight(got *heldSocket, x *shared) []string {
	f := got.InFlight
	if len(x.holders) > 0 || x.queued != nil {
		if f != nil {
			return []string{fmt.Sprintf("in flight %+v", f)}
		}
		return nil
	}
	if f == nil || f.Where == nil || *f.Where != "message" {
		return []string{fmt.Sprintf("in flight %+v, want a message", f)}
	}
	receivers, senders := map[handle]bool{}, []int{}
	for _, w := range m.workers {
		for fd, box := range w.boxes {
			for _, msg := range box.queue {
				if slices.Contains(msg.sockets, x) {
					receivers[handle{w.pid, fd}] = true
					senders = append(senders, msg.sender)
				}
			}
		}
	}
	said := map[handle]bool{}
	for _, r := range f.Receivers {
		said[handle{r.Pid, r.FD}] = true
	}
	var is []string
	if !maps.Equal(said, receivers) {
		is = append(is, fmt.Sprintf("could be received by %v, want %v", said, receivers))
	}
	if f.Sender != 0 && !slices.Contains(senders, f.Sender) {
		is = append(is, fmt.Sprintf("sent by %d, want one of %v", f.Sender, senders))
	}
	return is
}

func wrongParty(what string, got *party, pid int, x *shared) []string {
	switch {
	case got == nil && pid == 0:
		return nil
	case got == nil || got.Pid != pid:
		return []string{fmt.Sprintf("%s %+v, want %d", what, got, pid)}
	case got.Holds == nil || *got.Holds != x.heldBy(pid):
		return []string{fmt.Sprintf("%s %d holds it: %v, want %v", what, pid, got.Holds, x.heldBy(pid))}
	default:
		return nil
	}
}

// checkDiagnosis compares who is accused of how many for what; nobody's pid is 0.
func (m *model) checkDiagnosis(t *testing.T, when string, v *judged, watched bool) {
	t.Helper()
	wanted, members := map[blame]int{}, map[blame][]string{}
	for _, x := range m.sockets {
		e := x.expect(watched)
		b := blame{e.blamed, e.cause}
		wanted[b]++
		members[b] = append(members[b], x.String())
	}
	got := map[blame]int{}
	for i := range v.Processes {
		for cause, count := range v.Processes[i].Causes {
			got[blame{v.Processes[i].Pid, cause}] += count
		}
	}
	if v.SocketsCloseWait != len(m.sockets) || v.Verdict != "suspicious" {
		t.Errorf("%s: %s, %d in CLOSE_WAIT", when, v.Verdict, v.SocketsCloseWait)
	}
	for _, b := range slices.Collect(maps.Keys(wanted)) {
		if got[b] == 0 {
			got[b] = 0
		}
	}
	for b, count := range got {
		if count != wanted[b] {
			t.Errorf("%s: %d is blamed for %d %s, want %d of\n%s", when, b.pid, count, b.cause, wanted[b],
				strings.Join(members[b], "\n"))
		}
	}
}
