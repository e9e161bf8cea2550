package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/tcpwaitd/tcpwaitd/internal/destroy"
	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/netns"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// KillQuery chooses sockets to destroy.
type KillQuery struct {
	Query
	// Cookies narrows the choice to these sockets; empty for all that pass the filter.
	Cookies []event.Cookie
	// Yes destroys. Without it everything is looked up and nothing done.
	Yes bool
	// AnyState allows sockets with a connection that are not in CLOSE_WAIT, HalfClose those
	// whose program still sends.
	AnyState, HalfClose bool
	// Limit is the most sockets that are destroyed. If there are more, none is: a LimitError.
	Limit int
}

// Killed sums up. With a context that ended early it tells of what was done until then.
type Killed struct {
	// Chosen counts the sockets that passed the filter.
	Chosen int
	// Actions counts what became of those whose turn came; their sum is less than Chosen if
	// the context ended.
	Actions map[record.KillAction]int
	// Missing are cookies asked for that no socket has that passed the filter.
	Missing     []event.Cookie
	UnreadNetns map[uint32]string
}

// KillSink gets each socket in turn with what became of it; an error ends the killing. It
// keeps neither of the pointers.
type KillSink func(*diagnosis.Case, *record.Facts, *record.KillOutcome) error

// LimitError says that more sockets were chosen than may be destroyed; nothing was done.
type LimitError struct{ Chosen, Limit int }

func (e *LimitError) Error() string {
	return fmt.Sprintf("%d sockets were chosen, the limit is %d; nothing was done", e.Chosen, e.Limit)
}

// Kill destroys the chosen sockets in the kernel, the oldest first. A context that ends
// stops it between two sockets, and that is no error.
func (e *Engine) Kill(ctx context.Context, q KillQuery, sink KillSink) (*Killed, error) {
	l, err := e.List(ctx, ListQuery{Query: q.Query})
	if err != nil {
		return nil, err
	}
	if err := q.Filter.Err(); err != nil {
		return nil, err
	}
	k := &killer{engine: e, query: &q, conns: map[uint32]*reach{}}
	defer k.close()
	if err := k.prepare(); err != nil {
		return nil, err
	}
	chosen, missing := choose(l.Cases, q.Cookies)
	if n := k.allowed(chosen); q.Yes && n > q.Limit {
		return nil, &LimitError{n, q.Limit}
	}
	out := &Killed{
		Chosen: len(chosen), Actions: map[record.KillAction]int{}, Missing: missing, UnreadNetns: l.UnreadNetns,
	}
	for _, c := range chosen {
		if ctx.Err() != nil {
			break
		}
		o := k.one(c)
		out.Actions[o.Action]++
		if err := sink(c, &l.Facts, &o); err != nil {
			return out, err
		}
	}
	return out, nil
}

// choose keeps the sockets with the cookies, the oldest first.
func choose(cases diagnosis.Cases, cookies []event.Cookie) (chosen []*diagnosis.Case, missing []event.Cookie) {
	met := map[event.Cookie]bool{}
	for c := range diagnosis.All(cases) {
		if len(cookies) == 0 || slices.Contains(cookies, c.Cookie) {
			chosen = append(chosen, new(*c))
			met[c.Cookie] = true
		}
	}
	for _, cookie := range cookies {
		if !met[cookie] {
			missing = append(missing, cookie)
		}
	}
	slices.SortStableFunc(chosen, func(a, b *diagnosis.Case) int { return cmp.Compare(b.Dwell(), a.Dwell()) })
	return chosen, missing
}

// killer destroys one socket after the other.
type killer struct {
	engine *Engine
	query  *KillQuery
	spaces map[uint32]netns.NS
	conns  map[uint32]*reach
}

// reach is a way to the sockets of one namespace, or why there is none.
type reach struct {
	*destroy.Conn
	err error
}

func (k *killer) close() {
	for _, r := range k.conns {
		if r.Conn != nil {
			r.Close()
		}
	}
}

const (
	cureDestroy = "use a kernel built with CONFIG_INET_DIAG_DESTROY=y; or end the process, which closes its sockets"
	cureDiag    = "use a kernel built with CONFIG_INET_DIAG, and load its module (modprobe tcp_diag)"
)

// prepare finds out, before anything is done or promised, whether the kernel can.
func (k *killer) prepare() error {
	c, err := destroy.Open()
	switch {
	case errors.Is(err, destroy.ErrNoDestroy):
		return &CannotRunError{Cause: destroy.ErrNoDestroy.Error(), Cure: cureDestroy}
	case errors.Is(err, destroy.ErrNoDiag):
		return &CannotRunError{Cause: destroy.ErrNoDiag.Error(), Cure: cureDiag}
	case err != nil:
		return err
	}
	c.Close()
	// Processes that may not be looked at leave namespaces out; those are missed when one
	// of their sockets comes.
	all, err := netns.List(k.engine.cfg.Proc)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	k.spaces = make(map[uint32]netns.NS, len(all))
	for _, ns := range all {
		k.spaces[ns.Inode] = ns
	}
	return nil
}

// allowed counts the sockets that are not refused.
func (k *killer) allowed(chosen []*diagnosis.Case) (n int) {
	for _, c := range chosen {
		if k.refusal(c) == "" {
			n++
		}
	}
	return n
}

// one does what is to be done with one socket and says what became of it.
func (k *killer) one(c *diagnosis.Case) record.KillOutcome {
	o := record.KillOutcome{State: c.State}
	o.Action, o.Reason = k.try(c, &o.State)
	o.At = k.engine.cfg.Now()
	return o
}

// The reasons for leaving a socket alone that had its turn too late.
const (
	endedMeanwhile = "it has ended meanwhile"
	movedOn        = "it has moved on to %s meanwhile"
)

func (k *killer) try(c *diagnosis.Case, state *event.State) (record.KillAction, string) {
	if reason := k.refusal(c); reason != "" {
		return record.KillRefused, reason
	}
	r := k.reach(c.Flow.Netns)
	if r.err != nil {
		return record.KillFailed, r.err.Error()
	}
	s, err := r.Find(c.Cookie, c.Flow)
	switch {
	case errors.Is(err, destroy.ErrGone):
		return record.KillSkipped, endedMeanwhile
	case err != nil:
		return record.KillFailed, err.Error()
	case s.State != c.State:
		*state = s.State
		return record.KillSkipped, fmt.Sprintf(movedOn, s.State)
	case !k.query.Yes:
		return record.KillWouldDestroy, ""
	}
	err = r.Destroy(s)
	switch {
	case errors.Is(err, destroy.ErrGone):
		return record.KillSkipped, endedMeanwhile
	case errors.Is(err, fs.ErrPermission):
		return record.KillFailed, err.Error() + "; cure: run with CAP_NET_ADMIN in the user namespace of this network namespace, best as root of the host"
	case err != nil:
		return record.KillFailed, err.Error()
	default:
		return record.KillDestroyed, ""
	}
}

// reach opens the way to a namespace once.
func (k *killer) reach(inode uint32) *reach {
	if r := k.conns[inode]; r != nil {
		return r
	}
	r := &reach{}
	k.conns[inode] = r
	ns, ok := k.spaces[inode]
	if !ok {
		r.err = fmt.Errorf("network namespace %d cannot be entered: no process lives in it and it has no name (ip netns)", inode)
		return r
	}
	r.err = ns.Do(func() (err error) {
		r.Conn, err = destroy.Open()
		return err
	})
	if r.err != nil {
		r.err = fmt.Errorf("enter network namespace %d: %w", inode, r.err)
	}
	return r
}

// Why sockets are refused.
const (
	refuseListen   = "it listens: destroying it would refuse every new client"
	refuseTimeWait = "TIME_WAIT ends by itself within 60 s, and protects new connections until then"
	refuseClosed   = "it is closed already; only close() by the process frees what is left"
	refuseRequest  = "no connection yet: it ends by itself"
	refuseBound    = "it has no connection"
	refuseMPTCP    = "the kernel cannot destroy MPTCP sockets"
	refuseNameless = "its cookie is unknown, by which to make sure that it is the one"
	refuseState    = "it is in %s, not in CLOSE_WAIT; --any-state allows it"
	refuseHalf     = "the program still sends on it, which is legitimate use; --half-close allows it"
)

// RefusedState says why sockets in a state are never destroyed, empty if they can be.
func RefusedState(s event.State) string {
	switch s {
	case event.Listen:
		return refuseListen
	case event.TimeWait:
		return refuseTimeWait
	case event.Close:
		return refuseClosed
	case event.NewSynRecv, event.SynRecv:
		return refuseRequest
	case event.BoundInactive:
		return refuseBound
	default:
		return ""
	}
}

// refusal says why the socket is not to be destroyed, empty if it may be.
func (k *killer) refusal(c *diagnosis.Case) string {
	never := RefusedState(c.State)
	switch {
	case never != "":
		return never
	case c.Flow.Protocol == event.MPTCP:
		return refuseMPTCP
	case c.State != event.CloseWait && !k.query.AnyState:
		return fmt.Sprintf(refuseState, c.State)
	case c.Cause == diagnosis.HalfClose && !k.query.HalfClose:
		return refuseHalf
	case c.Cookie == 0:
		return refuseNameless
	default:
		return ""
	}
}
