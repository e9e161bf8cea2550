/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Every transition: keep the record, tell user space. */
#ifndef STATE_H
#define STATE_H

/* The syscall-exit hook knows only the cookie; the owner moves in here. */
static __always_inline void adopt_accepted(struct record *rec)
{
	struct acceptor *by;

	if (rec->evidence || rec->direction != DIRECTION_IN)
		return;
	by = bpf_map_lookup_elem(&accepted, &rec->cookie);
	if (!by)
		return;
	rec->owner = by->task;
	rec->stacks[STACK_OPEN] = by->stack;
	rec->evidence = EVIDENCE_ACCEPT;
	bpf_map_delete_elem(&accepted, &rec->cookie);
}

/*
 * The current task is the owner only where the kernel changes the state on
 * behalf of the caller of connect(), listen() or close(). Everywhere else it is
 * the peer (loopback), softirq or the idle task.
 */
static __always_inline void learn_owner(struct record *rec, int old, int new)
{
	adopt_accepted(rec);
	if (new == TCP_SYN_SENT)
		rec->direction = DIRECTION_OUT;
	else if (old == TCP_LISTEN &&
		 (new == TCP_SYN_RECV || new == TCP_ESTABLISHED))
		rec->direction = DIRECTION_IN; /* MPTCP is born established */
	if (current_is_kthread())
		return;
	if (new == TCP_SYN_SENT)
		own(rec, EVIDENCE_CONNECT);
	else if (new == TCP_LISTEN)
		own(rec, EVIDENCE_LISTEN);
	else if (!rec->evidence && old == TCP_CLOSE_WAIT && new == TCP_LAST_ACK)
		own(rec, EVIDENCE_CLOSE);
}

static __always_inline void note_connected(struct record *rec, struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	rec->flags |= RECORD_CONNECTED;
	if (tp && is_subflow(tp))
		rec->flags |= RECORD_SUBFLOW;
}

static __always_inline void enter_close_wait(struct record *rec,
					     struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	if (watch_eof == WATCH_ALL || (watch_eof == WATCH_TCP && tp))
		rec->flags |= RECORD_WATCHED;
	if (!tp)
		return;
	rec->sent_at_fin = written(tp);
	rec->flags |= RECORD_SENT;
}

static __always_inline void fill_transition(struct transition *t,
					    struct record *rec, struct sock *sk)
{
	t->cookie = rec->cookie;
	t->flow = rec->flow;
	t->owner = rec->owner;
	t->user = rec->user.tgid;
	__builtin_memcpy(t->stacks, rec->stacks, sizeof(t->stacks));
	t->direction = rec->direction;
	t->evidence = rec->evidence;
	t->cgroup = cgroup_of(sk);
	t->protocol = sk->sk_protocol;
	if (rec->flags & RECORD_SUBFLOW)
		t->flags |= TRANSITION_SUBFLOW;
	if (rec->state != t->old_state || !rec->since)
		return;
	t->in_state = t->at - rec->since;
	t->bound = rec->bound;
}

/* No record could be made: say what the socket itself tells. */
static __always_inline void fill_without_record(struct transition *t,
						struct sock *sk)
{
	t->cookie = id_of(sk);
	fill_flow(&t->flow, &sk->__sk_common);
	if (!t->flow.lport)
		t->flow.lport = former_port(sk);
	t->cgroup = cgroup_of(sk);
	t->protocol = sk->sk_protocol;
}

static __always_inline void send(struct transition *made)
{
	struct transition *t;

	if (!wanted(made)) {
		count(COUNTER_FILTERED);
		return;
	}
	t = ring_reserve();
	if (!t)
		return;
	*t = *made;
	t->kind = RING_TRANSITION;
	ring_submit(t);
}

/* Before the peer's FIN came nothing but a mini-socket in FIN_WAIT2 is left, or a reset. */
static __always_inline bool leaves_orphan(struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	if (!tp || tp->linger2 < 0 || unread(tp))
		return false;
	return !sock_flag(sk, SOCK_LINGER) || sk->sk_lingertime;
}

/*
 * Where nobody saw the mini-socket made (the hook is not there, or was refused amid another):
 * a connection that ends in FIN_WAIT2 or CLOSING without an error leaves one. One in FIN_WAIT2
 * is taken for a TIME_WAIT, which it becomes unless the peer never closes.
 */
static __always_inline bool makes_time_wait(struct sock *sk, struct record *rec,
					    int old, int new)
{
	if (new != TCP_CLOSE || sk->sk_err || sk->sk_protocol != IPPROTO_TCP ||
	    (rec && rec->flags & RECORD_TIME_WAIT))
		return false;
	if (old == TCP_FIN_WAIT2)
		return sock_flag(sk, SOCK_DONE) ||
		       (!late_time_wait && leaves_orphan(sk));
	return old == TCP_CLOSING;
}

static __always_inline void advance(struct record *rec, struct sock *sk,
				    int old, int new)
{
	identify(rec, sk);
	/* A socket can connect anew, elsewhere. */
	if (new == TCP_SYN_SENT)
		fill_flow(&rec->flow, &sk->__sk_common);
	else
		remember_flow(rec, sk);
	learn_owner(rec, old, new);
	if (new == TCP_ESTABLISHED)
		note_connected(rec, sk);
	if (new == TCP_CLOSE_WAIT)
		enter_close_wait(rec, sk);
}

static __always_inline void enter(struct record *rec, __u64 now, int new)
{
	rec->state = new;
	rec->since = now;
	rec->earliest = 0;
	rec->bound = BOUND_EXACT;
}

/*
 * Until 6.17 a child of a listener is told to be in SYN_RECV before it has its
 * peer's address and its own cookie. That transition is sent with the next one.
 */
static __always_inline bool is_unborn(struct sock *sk, int old, int new)
{
	return old == TCP_LISTEN && new == TCP_SYN_RECV &&
	       !sk->__sk_common.skc_dport;
}

static __always_inline void send_birth(struct record *rec, struct sock *sk)
{
	struct transition t = {.old_state = TCP_LISTEN,
			       .new_state = TCP_SYN_RECV};

	rec->flags &= ~RECORD_UNBORN;
	t.at = rec->since;
	fill_transition(&t, rec, sk);
	send(&t);
}

/*
 * The transition is the doing of the caller of close() or shutdown(). An abort, too, if
 * it was not the peer's: that one has left an error, or not shut the socket down yet.
 */
static __always_inline bool is_closing(struct sock *sk, int old, int new)
{
	if (new == TCP_LAST_ACK || new == TCP_FIN_WAIT1)
		return true;
	return new == TCP_CLOSE &&
	       (old == TCP_CLOSE_WAIT || old == TCP_ESTABLISHED) &&
	       !sk->sk_err && sk->sk_shutdown == SHUTDOWN_MASK;
}

static __always_inline void fill_closer(struct transition *t, struct sock *sk)
{
	struct task_struct *task = bpf_get_current_task_btf();

	if (current_is_kthread() || !is_closing(sk, t->old_state, t->new_state))
		return;
	t->closer = task->tgid;
	if (task->flags & PF_EXITING)
		t->flags |= TRANSITION_EXITING;
}

/*
 * connect() sets the state before it looks for a port, and takes it back where there is none;
 * for a socket that was bound (it keeps its port) where that is in use to the destination. A
 * sequence number is chosen after that, before anything else can go wrong.
 */
static __always_inline void fill_no_port(struct transition *t, struct sock *sk)
{
	struct tcp_sock *tp;

	if (t->old_state != TCP_SYN_SENT || t->new_state != TCP_CLOSE)
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp &&
	    (!t->flow.lport || (sk->__sk_common.skc_num && !tp->write_seq)))
		t->flags |= TRANSITION_NO_PORT;
}

/* Who closed first is of interest again when the peer turns out to have closed, too. */
static __always_inline void keep_closer(struct transition *t,
					struct record *rec)
{
	if (t->new_state == TCP_FIN_WAIT1)
		rec->closer = t->closer;
	else if (t->new_state == TCP_CLOSING)
		t->closer = rec->closer;
}

/* How a wait stands when it ends: whatever was unread then is lost. */
static __always_inline void fill_wait(struct transition *t,
				      const struct record *rec, struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	__u64 sent;

	t->recv_q = unread_of(sk, tp);
	if (!rec)
		return;
	if (rec->eof_at)
		t->flags |= TRANSITION_EOF_SEEN;
	if (was_watched(rec, tp))
		t->flags |= TRANSITION_WATCHED;
	if (!tp || !(rec->flags & RECORD_SENT))
		return;
	sent = written(tp) - rec->sent_at_fin;
	t->sent_after_fin = sent < MAX_U32 ? sent : MAX_U32;
	t->flags |= TRANSITION_SENT;
}

static __always_inline bool ends_stuck_wait(struct sock *sk, int old)
{
	struct record *rec = record_get(sk);

	return rec && old == TCP_CLOSE_WAIT && rec->state == old &&
	       bpf_ktime_get_ns() - rec->since >= stuck_after;
}

/* The stack of connect() or close(), 0 where the current task is somebody else. */
static __always_inline __u64 transition_stack(struct sock *sk, int old, int new)
{
	if (!is_tcp(sk) || !wants_close_stack(sk))
		return 0;
	if (new == TCP_SYN_SENT)
		return only_closes ? 0 : take_stack();
	if (!is_closing(sk, old, new))
		return 0;
	return all_closes || ends_stuck_wait(sk, old) ? take_stack() : 0;
}

/* A function of its own: its variables leave no room for a walk on the BPF stack. */
static __noinline void transit(struct sock *sk, int old, int new, __u64 stack)
{
	struct transition t = {.old_state = old, .new_state = new};
	struct record *rec;

	/* MPTCP stores the state it has (CLOSE to CLOSE): nothing changed. */
	if (old == new || !is_tcp(sk))
		return;
	t.at = bpf_ktime_get_ns();
	/* On its way out a socket without record gets none: it would die at once. */
	rec = new == TCP_CLOSE ? record_get(sk) : record_create(sk);
	if (rec) {
		advance(rec, sk, old, new);
		if (stack)
			rec->stacks[new == TCP_SYN_SENT ? STACK_OPEN
							: STACK_CLOSE] = stack;
		if (rec->flags & RECORD_UNBORN)
			send_birth(rec, sk);
		fill_transition(&t, rec, sk);
		enter(rec, t.at, new);
		if (is_unborn(sk, old, new)) {
			rec->flags |= RECORD_UNBORN;
			return;
		}
	} else {
		fill_without_record(&t, sk);
	}
	if (old == TCP_CLOSE_WAIT)
		fill_wait(&t, rec, sk);
	fill_closer(&t, sk);
	fill_no_port(&t, sk);
	if (rec)
		keep_closer(&t, rec);
	if (makes_time_wait(sk, rec, old, new)) {
		t.new_state = TCP_TIME_WAIT;
		t.flags |= TRANSITION_INFERRED;
		send(&t);
		/* A second one would leave no room on the BPF stack. */
		t.new_state = new;
		t.flags &= ~TRANSITION_INFERRED;
	}
	send(&t);
}

/*
 * Since 6.1 the kernel does not run a program that is already running on this CPU:
 * when an interrupt brings packets in the middle of a close(), their transitions
 * would pass unseen. A second program is called for each transition after the
 * first, and does the work exactly where the first was refused.
 */
static __always_inline int on_state(struct sock *sk, int old, int new)
{
	struct handled *last = latest_here();

	if (!last)
		return 0;
	last->sk = (__u64)sk;
	last->old_state = old;
	last->new_state = new;
	/* An interrupt must find this done. */
	barrier();
	transit(sk, old, new, transition_stack(sk, old, new));
	return 0;
}

static __always_inline int on_state_refused(struct sock *sk, int old, int new)
{
	struct handled *last = latest_here();
	struct record *rec;

	if (!last || (last->sk == (__u64)sk && last->old_state == old &&
		      last->new_state == new))
		return 0;
	if (old == new)
		return 0;
	/* Between the two programs an interrupt can have taken the place. */
	rec = record_get(sk);
	if (!rec && new == TCP_CLOSE)
		return 0;
	if (rec && rec->state == new)
		return 0;
	count(COUNTER_NESTED);
	transit(sk, old, new, 0);
	return 0;
}

#endif
