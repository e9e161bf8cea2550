/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Every transition: keep the record, tell user space. */
#ifndef STATE_H
#define STATE_H

/* The syscall-exit hook knows only the cookie; the owner moves in here. */
static __always_inline void adopt_accepted(struct record *rec)
{
	struct acceptor *by;

	if (!accepts_by_exit || rec->evidence || rec->direction != DIRECTION_IN)
		return;
	by = bpf_map_lookup_elem(&accepted, &rec->cookie);
	if (!by)
		return;
	rec->owner = by->task;
	rec->stacks[STACK_OPEN] = by->stack;
	rec->evidence = EVIDENCE_ACCEPT;
	rec->named = 0;
	bpf_map_delete_elem(&accepted, &rec->cookie);
}

/*
 * The current task is the owner only where the kernel changes the state on
 * behalf of the caller of connect(), listen() or close(). Everywhere else it is
 * the peer (loopback), softirq or the idle task.
 */
static __always_inline void learn_owner(struct record *rec, int old, int new)
{
	enum evidence evidence = EVIDENCE_NONE;

	adopt_accepted(rec);
	if (old == TCP_LISTEN &&
	    (new == TCP_SYN_RECV || new == TCP_ESTABLISHED))
		rec->direction = DIRECTION_IN; /* MPTCP is born established */
	/* Its beginning can have been missed. */
	if (new == TCP_SYN_SENT || old == TCP_SYN_SENT)
		rec->direction = DIRECTION_OUT;
	if (new == TCP_SYN_SENT)
		evidence = EVIDENCE_CONNECT;
	else if (new == TCP_LISTEN)
		evidence = EVIDENCE_LISTEN;
	else if (!rec->evidence && old == TCP_CLOSE_WAIT && new == TCP_LAST_ACK)
		evidence = EVIDENCE_CLOSE;
	if (evidence && !current_is_kthread())
		own(rec, evidence);
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

/*
 * connect() sets the state before it looks for a port, and takes it back where there is none;
 * for a socket that was bound (it keeps its port) where that is in use to the destination. A
 * sequence number is chosen after that, before anything else can go wrong.
 */
static __always_inline void
fill_no_port(struct change *c, const struct record *rec, struct sock *sk)
{
	struct tcp_sock *tp;

	if (c->old_state != TCP_SYN_SENT || c->new_state != TCP_CLOSE)
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp &&
	    (!rec->flow.lport || (sk->__sk_common.skc_num && !tp->write_seq)))
		c->flags |= TRANSITION_NO_PORT;
}

/* What the socket tells of itself, with any change. */
static __always_inline void fill_change(struct change *c, struct sock *sk)
{
	c->cgroup = cgroup_of(sk);
	if (sk->sk_protocol == IPPROTO_MPTCP)
		c->flags |= TRANSITION_MPTCP;
}

/* The time in the old state, if the record is of that state. */
static __always_inline void time_change(struct change *c,
					const struct record *rec)
{
	if (rec->state != c->old_state || !rec->since)
		return;
	c->in_state = c->at - rec->since;
	c->bound = rec->bound;
}

static __always_inline void fill_base(struct transition *t,
				      const struct change *c,
				      const struct record *rec)
{
	t->kind = RING_TRANSITION;
	t->old_state = c->old_state;
	t->new_state = c->new_state;
	t->bound = c->bound;
	t->direction = rec->direction;
	t->evidence = rec->evidence;
	t->flags = c->flags;
	if (rec->flags & RECORD_SUBFLOW)
		t->flags |= TRANSITION_SUBFLOW;
	t->at = c->at;
	t->cookie = rec->cookie;
	t->in_state = c->in_state;
	t->cgroup = c->cgroup;
	t->netns = rec->flow.netns;
	t->lport = rec->flow.lport;
	t->rport = rec->flow.rport;
	__builtin_memcpy(t->laddr4, rec->flow.laddr + 12, 4);
	__builtin_memcpy(t->raddr4, rec->flow.raddr + 12, 4);
	t->owner_start = rec->owner.start;
	t->owner_tgid = rec->owner.tgid;
	t->owner_tid = rec->owner.tid;
}

static __always_inline void fill_more(struct transition *t,
				      const struct change *c,
				      const struct record *rec)
{
	t->flags |= TRANSITION_MORE;
	__builtin_memcpy(t->owner_comm, rec->owner.comm, sizeof(t->owner_comm));
	t->user = rec->user;
	t->closer = c->closer;
	t->recv_q = c->recv_q;
	t->sent_after_fin = c->sent_after_fin;
}

static __always_inline void fill_wide(struct transition *t,
				      const struct record *rec)
{
	t->flags |= TRANSITION_WIDE;
	__builtin_memcpy(t->laddr, rec->flow.laddr, sizeof(t->laddr));
	__builtin_memcpy(t->raddr, rec->flow.raddr, sizeof(t->raddr));
	__builtin_memcpy(t->stacks, rec->stacks, sizeof(t->stacks));
}

static __always_inline bool has_stacks(const struct record *rec)
{
	return unwinder && (rec->stacks[0] | rec->stacks[1] | rec->stacks[2] |
			    rec->stacks[3]);
}

/*
 * Writes the record as short as it can be. A function of its own, like all that have one of the
 * large structs: together they leave no room on the BPF stack.
 */
__noinline int send(const struct change *c, const struct record *rec)
{
	struct transition t;

	if (!c || !rec)
		return 0;
	fill_base(&t, c, rec);
	if (has_stacks(rec) || !is_v4(rec->flow.laddr) ||
	    !is_v4(rec->flow.raddr)) {
		fill_more(&t, c, rec);
		fill_wide(&t, rec);
		return ring_write(&t, sizeof(t));
	}
	if ((rec->evidence && !rec->named) || c->closer ||
	    c->old_state == TCP_CLOSE_WAIT) {
		fill_more(&t, c, rec);
		return ring_write(&t, offsetof(struct transition, laddr));
	}
	return ring_write(&t, offsetof(struct transition, owner_comm));
}

/* here: where the state program counts; NULL in others. */
static __always_inline void filtered(struct handled *here)
{
	count_here(here ? &here->filtered : NULL, COUNTER_FILTERED, 1);
}

static __always_inline bool tell(struct change *c, const struct record *rec,
				 struct handled *here)
{
	__u32 transitions;

	if (only_closes)
		c->flags &= ~TRANSITION_TWO;
	if (!wanted(c, rec)) {
		filtered(here);
		return false;
	}
	transitions = c->flags & TRANSITION_TWO ? 2 : 1;
	count_here(here ? &here->made : NULL, COUNTER_MADE, transitions);
	if (!send(c, rec))
		return true;
	count(COUNTER_LOST, transitions);
	return false;
}

/* No record could be made, or it is not worth it: what the socket itself tells. */
static __always_inline void substitute(struct record *rec, struct sock *sk)
{
	rec->cookie = id_of(sk);
	fill_flow(&rec->flow, &sk->__sk_common);
	if (!rec->flow.lport)
		rec->flow.lport = former_port(sk);
}

/* NULL where it is in use: the change is counted, and lost. */
static __always_inline struct spare *take_spare(void)
{
	struct spare *spare = spare_here();

	if (spare && !spare->busy) {
		spare->busy = 1;
		/* An interrupt must find this done. */
		barrier();
		__builtin_memset(&spare->rec, 0, sizeof(spare->rec));
		return spare;
	}
	count(COUNTER_MADE, 1);
	count(COUNTER_LOST, 1);
	return NULL;
}

static __always_inline void give_spare(struct spare *spare)
{
	barrier();
	spare->busy = 0;
}

static __noinline void tell_without_record(struct change *c, struct sock *sk)
{
	struct spare *spare = take_spare();

	if (!spare)
		return;
	substitute(&spare->rec, sk);
	fill_no_port(c, &spare->rec, sk);
	tell(c, &spare->rec, NULL);
	give_spare(spare);
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
				    __u32 netns, int old, int new)
{
	identify(rec, sk);
	/* A socket can connect anew, elsewhere. */
	if (new == TCP_SYN_SENT)
		fill_flow_in(&rec->flow, &sk->__sk_common, netns);
	else
		remember_flow(rec, sk, netns);
	learn_owner(rec, old, new);
	if (new == TCP_ESTABLISHED)
		note_connected(rec, sk);
	if (new == TCP_CLOSE_WAIT)
		enter_close_wait(rec, sk);
}

/* now: 0 where nobody asks how long it will be in this state. */
static __always_inline void enter(struct record *rec, __u64 now, int new)
{
	rec->state = new;
	rec->since = now;
	rec->earliest = 0;
	rec->bound = now ? BOUND_EXACT : BOUND_UNKNOWN;
}

/* Who is told of the ends of waits asks looks for these. */
#define DATED                                                                  \
	(1U << TCP_CLOSE_WAIT | 1U << TCP_FIN_WAIT1 | 1U << TCP_FIN_WAIT2 |    \
	 1U << TCP_CLOSE)

/* The clock is a tenth of the cost of a transition. */
static __always_inline bool is_dated(int new)
{
	return !only_ends || DATED & 1U << (new & 31);
}

/*
 * A child of a listener goes to SYN_RECV and on in one go; until 6.17 the first is told before
 * it has its peer's address and its own cookie. Both are told with the second, in one record.
 */
static __always_inline bool is_birth(int old, int new)
{
	return old == TCP_LISTEN && new == TCP_SYN_RECV;
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

static __always_inline void fill_closer(struct change *c, struct sock *sk)
{
	struct task_struct *task;

	if (!is_closing(sk, c->old_state, c->new_state))
		return;
	task = bpf_get_current_task_btf();
	if (task->flags & PF_KTHREAD)
		return;
	c->closer = task->tgid;
	if (task->flags & PF_EXITING)
		c->flags |= TRANSITION_EXITING;
}

/* Who closed first is of interest again when the peer turns out to have closed, too. */
static __always_inline void keep_closer(struct change *c, struct record *rec)
{
	if (c->new_state == TCP_FIN_WAIT1)
		rec->closer = c->closer;
	else if (c->new_state == TCP_CLOSING)
		c->closer = rec->closer;
}

/* How a wait stands when it ends: whatever was unread then is lost. */
static __always_inline void fill_wait(struct change *c,
				      const struct record *rec, struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	__u64 sent;

	c->recv_q = unread_of(sk, tp);
	if (!rec)
		return;
	if (rec->eof_at)
		c->flags |= TRANSITION_EOF_SEEN;
	if (was_watched(rec, tp))
		c->flags |= TRANSITION_WATCHED;
	if (!tp || !(rec->flags & RECORD_SENT))
		return;
	sent = written(tp) - rec->sent_at_fin;
	c->sent_after_fin = sent < MAX_U32 ? sent : MAX_U32;
	c->flags |= TRANSITION_SENT;
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

/* What the change means for the record, and the record for the change. */
static __always_inline void step(struct change *c, struct record *rec,
				 struct sock *sk, __u64 stack)
{
	int old = c->old_state, new = c->new_state;

	advance(rec, sk, c->netns, old, new);
	if (stack)
		rec->stacks[new == TCP_SYN_SENT ? STACK_OPEN : STACK_CLOSE] =
		    stack;
	time_change(c, rec);
	enter(rec, c->at, new);
	if (rec->flags & RECORD_UNBORN) {
		rec->flags &= ~RECORD_UNBORN;
		c->flags |= TRANSITION_BORN;
	}
	keep_closer(c, rec);
	fill_no_port(c, rec, sk);
}

/* In the middle of its birth a socket can have its listener's cookie, and no peer yet. */
static __always_inline bool starts_young(struct sock *sk, int old, int new)
{
	return sk->sk_protocol == IPPROTO_TCP && new != TCP_LISTEN &&
	       (!is_birth(old, new) || sk->__sk_common.skc_dport);
}

/* What only the reader of the change needs, and the record may know. */
static __always_inline void fill_told(struct change *c, struct record *rec,
				      struct sock *sk)
{
	if (c->old_state == TCP_CLOSE_WAIT)
		fill_wait(c, rec, sk);
	if (makes_time_wait(sk, rec, c->old_state, c->new_state))
		c->flags |= TRANSITION_TIME_WAIT;
}

/* A function of its own: its variables leave no room for a walk on the BPF stack. */
static __noinline void transit(struct sock *sk, int old, int new, __u64 stack,
			       struct handled *here)
{
	struct change c = {.old_state = old, .new_state = new};
	bool asked = may_be_wanted(old, new);
	struct record *rec;

	/* MPTCP stores the state it has (CLOSE to CLOSE): nothing changed. */
	if (old == new || !is_tcp(sk))
		return;
	/* Nobody asks, and nobody will. */
	if (!asked && new == TCP_CLOSE && sock_flag(sk, SOCK_DEAD)) {
		rec = record_get(sk);
		if (rec)
			rec->state = new;
		young_leave(sk);
		filtered(here);
		return;
	}
	c.netns = netns_of(&sk->__sk_common);
	if (asked || is_dated(new))
		c.at = bpf_ktime_get_ns();
	if (asked)
		fill_change(&c, sk);
	/* On its way out a socket without record gets none: it would die at once. */
	rec = new == TCP_CLOSE ? record_get(sk)
			       : record_create(sk, starts_young(sk, old, new));
	fill_closer(&c, sk);
	if (rec)
		step(&c, rec, sk, stack);
	if (rec && asked && only_ends)
		asked = !tally_wait(&c, rec);
	if (asked)
		fill_told(&c, rec, sk);
	if (rec && is_birth(old, new))
		rec->flags |= RECORD_UNBORN;
	else if (!asked)
		filtered(here);
	else if (!rec)
		tell_without_record(&c, sk);
	else if (tell(&c, rec, here))
		rec->named = !!rec->evidence;
	if (new == TCP_CLOSE)
		young_leave(sk);
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
	transit(sk, old, new, transition_stack(sk, old, new), last);
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
	count(COUNTER_NESTED, 1);
	transit(sk, old, new, 0, NULL);
	return 0;
}

#endif
