/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Reads and writes: process context with the socket at hand. */
#ifndef IO_H
#define IO_H

/* Who accepted comes before who read, if a hook has seen it. */
static __always_inline void own_if_unknown(struct record *rec,
					   enum evidence evidence)
{
	adopt_accepted(rec);
	if (!rec->evidence && !current_is_kthread())
		own(rec, evidence);
}

/* All bytes consumed so far came with this call (one more for a FIN). */
static __always_inline bool first_read(struct sock *sk, int n)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	return !tp || tp->bytes_received - unread(tp) <= (__u64)n + 1;
}

/* All bytes written so far came with this call (one more for our SYN). */
static __always_inline bool first_write(struct sock *sk, int n)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	return !tp || written(tp) <= (__u64)n + 1;
}

/* Of a socket in CLOSE_WAIT: nothing is left, so the FIN went with the data. */
static __always_inline bool took_fin(struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	return tp && !unread(tp);
}

/*
 * recv() returning 0 is EOF only where nothing is left unread: a recv() for 0
 * bytes returns 0 as well. A peek is told and leaves the FIN.
 */
static __always_inline bool told_eof(struct sock *sk, int n, int flags)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	if (n != 0)
		return false;
	return !tp || unread(tp) <= !!(flags & MSG_PEEK);
}

static __always_inline bool tracks_user(struct sock *sk)
{
	return track_users &&
	       (!filter.netns || filter.netns == netns_of(&sk->__sk_common));
}

#define USERS	 8192 /* a power of two */
#define PID_BITS 22   /* PID_MAX_LIMIT */

/*
 * Sockets and who used them last, by cookie: of a socket in use there is nothing new to
 * learn, and a look at its record costs more than the rest. Full: a socket takes the place of
 * another, whose record is then looked at again.
 */
__u64 last_users[USERS];

static __always_inline __u64 user_key(struct sock *sk)
{
	return sk->__sk_common.skc_cookie.counter << PID_BITS |
	       bpf_get_current_pid_tgid() >> 32;
}

static __always_inline __u64 *user_slot(__u64 key)
{
	return &last_users[key >> PID_BITS & (USERS - 1)];
}

static __always_inline bool used_it_last(struct sock *sk)
{
	__u64 key = user_key(sk);

	return *user_slot(key) == key;
}

/*
 * Forgets whoever it was before, too; nobody is remembered while an owner is looked for, nor of
 * sockets that cannot be told from others: an accepted MPTCP socket has its listener's cookie.
 */
static __always_inline void remember_user(const struct record *rec,
					  struct sock *sk)
{
	__u64 key = user_key(sk);

	if (sk->__sk_common.skc_cookie.counter &&
	    sk->sk_protocol == IPPROTO_TCP)
		*user_slot(key) = rec->evidence || !own_by_io ? key : 0;
}

/* True: another process did so last, or nobody. Threads of io_uring are its own. */
__noinline bool note_user(struct record *rec, enum evidence evidence)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 start = task->group_leader->start_boottime;

	if (!rec || (rec->user == task->tgid && rec->user_start == start) ||
	    current_is_kthread())
		return false;
	rec->user = task->tgid;
	rec->user_start = start;
	rec->user_evidence = evidence;
	return true;
}

static __always_inline void note_use(struct record *rec, enum evidence evidence,
				     bool stack)
{
	if (note_user(rec, evidence) && stack)
		rec->stacks[STACK_LAST_READ] = take_stack();
}

/* The current task is told of the end of data. */
__noinline int note_eof(struct record *rec)
{
	if (!rec)
		return 0;
	rec->eof_at = bpf_ktime_get_ns();
	fill_actor(&rec->eof_task, bpf_get_current_task_btf());
	return 0;
}

/* What a read or write tells of a connection; first: nobody can have done so before. */
static __always_inline void note_io(struct sock *sk, enum evidence evidence,
				    bool first)
{
	bool stack = wants_stack(sk);
	struct record *rec;
	struct young *held;

	if (!stack && !first && !tracks_user(sk))
		return;
	rec = record_hold(sk, &held);
	if (!rec)
		return;
	if (first)
		own_if_unknown(rec, evidence);
	if (stack || tracks_user(sk))
		note_use(rec, evidence, stack);
	remember_user(rec, sk);
	young_let_go(held);
}

static __always_inline void
note_recv_close_wait(struct record *rec, struct sock *sk, int n, int flags)
{
	/* The stack of a recv() that returns 0 has a place of its own. */
	bool stack = n > 0 && wants_stack(sk);

	own_if_unknown(rec, EVIDENCE_READ);
	if (stack || tracks_user(sk)) {
		note_use(rec, EVIDENCE_READ, stack);
		remember_user(rec, sk);
	}
	if (n > 0 && took_fin(sk))
		rec->flags |= RECORD_TOOK_FIN;
	if (rec->eof_at || !told_eof(sk, n, flags))
		return;
	note_eof(rec);
	if (wants_stack(sk))
		rec->stacks[STACK_EOF] = take_stack();
}

static __always_inline int on_recv_close_wait(struct sock *sk, int n, int flags)
{
	struct record *rec;
	struct young *held;

	if (n < 0 || !is_tcp(sk))
		return 0;
	rec = record_hold(sk, &held);
	if (rec)
		note_recv_close_wait(rec, sk, n, flags);
	young_let_go(held);
	return 0;
}

static __always_inline bool watches_io(void)
{
	return own_by_io || (unwinder && !only_closes) || track_users;
}

static __always_inline int on_recv(struct sock *sk, int n, int flags)
{
	__u8 state = sk->__sk_common.skc_state;

	if (state == TCP_CLOSE_WAIT)
		return on_recv_close_wait(sk, n, flags);
	if (!watches_io() || state != TCP_ESTABLISHED || n <= 0 ||
	    used_it_last(sk))
		return 0;
	if (!is_tcp(sk))
		return 0;
	note_io(sk, EVIDENCE_READ, own_by_io && first_read(sk, n));
	return 0;
}

static __always_inline int on_send(struct sock *sk, int n)
{
	if (!watches_io() || n <= 0 || used_it_last(sk) || !is_tcp(sk))
		return 0;
	note_io(sk, EVIDENCE_WRITE, own_by_io && first_write(sk, n));
	return 0;
}

#endif
