package pipeline

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/filter"
	"github.com/tcpwaitd/tcpwaitd/internal/owner"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
)

// ExplainQuery names one process or one socket. Its filter chooses nothing.
type ExplainQuery struct {
	Threshold time.Duration
	// Pid and Cookie, 0 for neither; of both the process is explained, if there is one.
	Pid    uint32
	Cookie event.Cookie
	// For is how long to watch first; 0 explains the present. When the context ends earlier,
	// what was seen until then is explained, and that is no error.
	For time.Duration
}

// Explained is what is known of one process or one socket.
type Explained struct {
	// Process is the judgement of the process, or of the one socket; its Task is zero if
	// nobody is known.
	Process diagnosis.Process
	// Socket is set if a socket was asked for.
	Socket *diagnosis.Case
	// Cases are the sockets of the process that are in CLOSE_WAIT or closed and still held, the
	// oldest first; those it merely shares with others included.
	Cases []*diagnosis.Case
	// States counts the sockets that the process holds, is to accept or is blamed for.
	States record.StateCounts
	Facts  record.Facts
	// Access says how the commands that are printed get to what they look at.
	Access diagnosis.Access
	// Observed is how long was watched.
	Observed    time.Duration
	Loss        event.Loss
	UnreadNetns map[uint32]string
	// Notes are reservations in words.
	Notes []string
}

// NotFoundError says that neither a process nor a socket is known by a number.
type NotFoundError struct{ What string }

func (e *NotFoundError) Error() string {
	return e.What + ": it has ended, or never was; cure: take a pid or a cookie from 'tcpwaitd list -o wide'"
}

// Explain tells all that is known of one process or one socket.
func (e *Engine) Explain(ctx context.Context, q ExplainQuery) (*Explained, error) {
	all := DiagnoseQuery{Query: Query{Filter: &filter.Filter{}, Threshold: q.Threshold, Facts: true}, For: q.For}
	w, err := e.watch(&all)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	if q.For > 0 {
		if err := w.run(ctx, all); err != nil {
			return nil, err
		}
	}
	// What was asked for is wanted all the more when the user lost patience.
	ctx = context.WithoutCancel(ctx)
	d, err := w.judge(ctx)
	if err != nil {
		return nil, err
	}
	x := &explainer{watcher: w, query: &q, judged: d}
	if err := x.look(ctx); err != nil {
		return nil, err
	}
	out, err := x.explain(ctx)
	if err != nil {
		return nil, err
	}
	out.Access = e.access(&out.Facts, out.all())
	out.Process.SetCommands(out.Access)
	return out, nil
}

// all are the sockets explained.
func (x *Explained) all() iter.Seq[*diagnosis.Case] {
	if x.Socket != nil {
		return slices.Values([]*diagnosis.Case{x.Socket})
	}
	return slices.Values(x.Cases)
}

// explainer looks for one process or socket in what was judged, and in a look at the sockets
// of every state.
type explainer struct {
	*watcher
	query  *ExplainQuery
	judged *Diagnosed
	cases  []diagnosis.Case
}

// look takes the snapshot of every state.
func (x *explainer) look(ctx context.Context) error {
	look, err := x.engine.look(ctx, x.Tracer, tracer.SnapshotOptions{Holders: true})
	if err != nil {
		return err
	}
	x.cases = owner.Cases(&look.Snapshot, look.All())
	x.engine.explain(x.cases, x.query.Threshold)
	wanted := map[event.Cookie]bool{x.query.Cookie: true}
	for c := range x.judged.Waits() {
		wanted[c.Cookie] = true
	}
	delete(wanted, 0)
	pid, _, _ := x.process()
	x.engine.join(&whole{&look.Snapshot, look}, x.judged, func(s *event.Socket) bool { return wanted[s.Cookie] }, pid)
	return nil
}

func (x *explainer) explain(ctx context.Context) (*Explained, error) {
	out := &Explained{
		Facts: x.judged.Facts, Observed: x.judged.Observed, Loss: x.judged.Loss, UnreadNetns: x.judged.UnreadNetns,
	}
	socket, judged := x.socket()
	pid, isThread, found := x.process()
	switch {
	case found:
		if isThread {
			out.Notes = append(out.Notes, fmt.Sprintf("%d is a thread of process %d", x.query.Pid, pid))
		}
		if socket != nil {
			out.Notes = append(out.Notes, fmt.Sprintf("%d is the cookie of a socket as well: tcpwaitd explain cookie:%[1]d", x.query.Pid))
		}
		return out, x.explainProcess(ctx, pid, out)
	case socket != nil:
		return out, x.explainSocket(ctx, socket, judged, out)
	case x.query.Cookie == 0:
		return nil, &NotFoundError{fmt.Sprintf("no process %d", x.query.Pid)}
	case x.query.Pid == 0:
		return nil, &NotFoundError{fmt.Sprintf("no socket with the cookie %d", x.query.Cookie)}
	default:
		return nil, &NotFoundError{fmt.Sprintf("no process and no socket %d", x.query.Cookie)}
	}
}

// socket finds the socket asked for: as it was judged, if it was.
func (x *explainer) socket() (c *diagnosis.Case, judged bool) {
	if x.query.Cookie == 0 {
		return nil, false
	}
	for c := range x.judged.Waits() {
		if c.Cookie == x.query.Cookie {
			return c, true
		}
	}
	for i := range x.cases {
		if x.cases[i].Cookie == x.query.Cookie {
			return &x.cases[i], false
		}
	}
	return nil, false
}

// process finds the process asked for. It may be gone and still stand in the kernel's
// records, and in another pid namespace only these tell.
func (x *explainer) process() (pid uint32, isThread, found bool) {
	pid = x.query.Pid
	if pid == 0 {
		return 0, false, false
	}
	if group := threadGroup(x.engine.cfg.Proc, pid); group != 0 {
		return group, group != pid, true
	}
	return pid, false, slices.ContainsFunc(x.cases, func(c diagnosis.Case) bool { return concerns(&c, pid) })
}

// threadGroup is the process that a thread belongs to, 0 if there is no such thread. /proc
// has a directory for each thread, though it lists only processes.
func threadGroup(proc string, tid uint32) uint32 {
	status, err := os.ReadFile(filepath.Join(proc, strconv.FormatUint(uint64(tid), 10), "status"))
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(status, []byte("\nTgid:"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	group, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(group)
}

// concerns: the process is blamed for the socket, holds it or should accept it.
func concerns(c *diagnosis.Case, pid uint32) bool {
	is := func(h event.Holder) bool { return h.Pid == pid }
	return c.Blamed.Pid == pid || slices.ContainsFunc(c.Holders, is) || slices.ContainsFunc(c.Listeners, is)
}

func (x *explainer) explainProcess(ctx context.Context, pid uint32, out *Explained) error {
	for i := range x.judged.Processes {
		if x.judged.Processes[i].Task.Pid == pid {
			out.Process = x.judged.Processes[i]
		}
	}
	if err := x.identify(ctx, pid, out); err != nil {
		return err
	}
	for c := range x.judged.Waits() {
		if concerns(c, pid) {
			out.Cases = append(out.Cases, c)
		}
	}
	slices.SortStableFunc(out.Cases, func(a, b *diagnosis.Case) int { return cmp.Compare(b.Dwell(), a.Dwell()) })
	if n := len(out.Cases) - out.Process.Sockets; n > 0 {
		out.Notes = append(out.Notes, fmt.Sprintf("of %d of its sockets another process is to blame, or nobody knows who", n))
	}
	for i := range x.cases {
		if c := &x.cases[i]; !c.Subflow && concerns(c, pid) {
			out.States[c.State]++
		}
	}
	return nil
}

// identify looks up a process that nobody judged, and where its threads stand.
func (x *explainer) identify(ctx context.Context, pid uint32, out *Explained) error {
	p, e := &out.Process, x.engine
	if p.Task.Pid == 0 {
		p.Task.Pid = pid
		known, err := e.owners.LookupFDs(p.Task)
		if err != nil && !errors.Is(err, owner.ErrGone) {
			return err
		}
		p.Task.Start, p.Task.Comm = known.Start, event.MakeComm(known.Comm)
		p.FDs = diagnosis.FDs{Open: int(known.FDsOpen), Limit: int(known.FDLimit)}
		out.Facts.Processes[pid] = &known
		e.names.fill(&out.Facts, nil)
	}
	if out.Facts.Threads[pid] == nil {
		// As if it were suspected: only of such processes threads are looked at.
		suspected := diagnosis.Diagnosis{Processes: []diagnosis.Process{{Task: p.Task, Verdict: diagnosis.Suspicious}}}
		out.Facts.Threads = e.threads(ctx, x.watched, &suspected)
	}
	return nil
}

// explainSocket judges one socket by itself; judged says that its facts are known already.
func (x *explainer) explainSocket(ctx context.Context, c *diagnosis.Case, judged bool, out *Explained) error {
	out.Socket = c
	d := diagnosis.Judge(diagnosis.Input{Cases: []diagnosis.Case{*c}, From: c.At, To: c.At, Threshold: x.query.Threshold})
	if len(d.Processes) > 0 {
		out.Process = d.Processes[0]
	}
	if judged {
		return nil
	}
	one := diagnosis.CaseList{*c}
	out.Facts = x.engine.facts(one, x.judged.Facts.Clock, false)
	out.Facts.Peers = x.judged.Facts.Peers
	return x.fill(ctx, x.engine.log, one, &out.Facts)
}
