/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The iterators' rows. Sockets come from the tables of one namespace after the other,
 * descriptors from all processes. (Sockets with a record could be had in one pass over
 * all namespaces, but that pass resumes by counting: when a socket ends meanwhile,
 * another one is missed.)
 */
#ifndef SNAPSHOT_H
#define SNAPSHOT_H

/*
 * Ticks come late on a busy or emulated machine, so a time stamp in ticks can name a
 * moment well before the truth or after it. Bounds leave room for that.
 */
#define TICKS_LATE 100000000ULL /* ns */

/* A kernel time stamp in ticks (32 bit) as ktime, good to a tick at best. */
static __always_inline __u64 ktime_of_ticks(__u64 now, __u32 stamp)
{
	__u64 age =
	    (__u64)((__u32)bpf_jiffies64() - stamp) * (1000000000ULL / hz);

	return age + TICKS_LATE < now ? now - age : TICKS_LATE + 1;
}

/* The last and the first moment at which a socket can have entered its state. */
struct dwell {
	__u64 since;
	__u64 earliest;
};

/*
 * A socket that was there before us. In CLOSE_WAIT the FIN came at the last ACK
 * or before it, and not before the last data.
 */
static __always_inline void baseline_dwell(struct dwell *to, __u8 state,
					   struct tcp_sock *tp, __u64 now)
{
	__u32 last_data;

	to->since = now;
	to->earliest = 0;
	if (!tp || state != TCP_CLOSE_WAIT)
		return;
	last_data = tp->inet_conn.icsk_ack.lrcvtime;
	to->since = ktime_of_ticks(now, tp->rcv_tstamp) + TICKS_LATE;
	if (to->since > now)
		to->since = now;
	if (last_data)
		to->earliest = ktime_of_ticks(now, last_data) - TICKS_LATE;
}

static __always_inline void baseline(struct record *rec, struct sock *sk,
				     struct tcp_sock *tp, __u64 now)
{
	struct dwell dwell;

	identify(rec, sk);
	rec->flags = RECORD_BASELINE;
	if (tp && is_subflow(tp))
		rec->flags |= RECORD_SUBFLOW;
	rec->state = sk->__sk_common.skc_state;
	remember_flow(rec, sk, netns_of(&sk->__sk_common));
	baseline_dwell(&dwell, rec->state, tp, now);
	rec->since = dwell.since;
	rec->earliest = dwell.earliest;
	rec->bound = BOUND_AT_LEAST;
}

/* Who watches gives every socket a record; who looks once has none. */
static __always_inline struct record *
snapshot_record(struct sock *sk, struct tcp_sock *tp, struct young **held)
{
	struct record *rec;

	*held = NULL;
	if (!live)
		return NULL;
	rec = record_hold(sk, held);
	if (rec || !snapshot_import)
		return rec;
	rec = stored_create(sk);
	if (rec && !rec->cookie)
		baseline(rec, sk, tp, bpf_ktime_get_ns());
	return rec;
}

/*
 * A record that missed the last transition knows only that it came after the one before. One
 * without a date says nothing.
 */
static __always_inline void row_dwell(struct socket_row *row,
				      const struct record *rec)
{
	if (rec->state == row->state && rec->since) {
		row->since = rec->since;
		row->earliest = rec->earliest;
		row->bound = rec->bound;
		return;
	}
	row->since = row->at;
	row->earliest = rec->since;
	row->bound = BOUND_AT_LEAST;
}

/* A row as it is written: the second part only with SOCKET_MORE. */
struct whole_row {
	struct socket_row row;
	struct socket_more more;
};

static __always_inline void row_of_record(struct whole_row *whole,
					  const struct record *rec,
					  struct tcp_sock *tp)
{
	struct socket_row *row = &whole->row;
	struct socket_more *more = &whole->more;

	row->cookie = rec->cookie;
	row->flow = rec->flow;
	row_dwell(row, rec);
	more->eof_at = rec->eof_at;
	more->eof_task = rec->eof_task;
	more->owner = rec->owner;
	more->user = rec->user;
	more->user_start = rec->user_start;
	row->user_evidence = rec->user_evidence;
	__builtin_memcpy(more->stacks, rec->stacks, sizeof(more->stacks));
	row->direction = rec->direction;
	row->evidence = rec->evidence;
	row->flags |=
	    rec->flags & (RECORD_BASELINE | RECORD_SENT | RECORD_CONNECTED);
	row->flags |= SOCKET_MORE;
	if (was_watched(rec, tp))
		row->flags |= SOCKET_WATCHED;
	if (row->flags & SOCKET_SENT && tp)
		more->sent_after_fin = written(tp) - rec->sent_at_fin;
}

/*
 * How the port was taken: connect() marks the bucket of a port that it has chosen with -1, and
 * chooses no port of another mark. The bucket can be gone by now: then nothing is said.
 */
static __always_inline void row_port(struct socket_row *row,
				     struct inet_bind_bucket *bucket)
{
	if (!bucket)
		return;
	row->flags |= SOCKET_PORT;
	if (bucket->fastreuse >= 0 || bucket->fastreuseport >= 0)
		row->flags |= SOCKET_PORT_BOUND;
}

/* Queues of a listener: connections waiting for accept(), and the limit. */
static __always_inline void row_queues(struct socket_row *row, struct sock *sk,
				       struct tcp_sock *tp)
{
	if (row->state == TCP_LISTEN) {
		row->recv_q = sk->sk_ack_backlog;
		row->send_q = sk->sk_max_ack_backlog;
		row->flags |= SOCKET_QUEUES;
	} else if (tp || sk->sk_protocol == IPPROTO_MPTCP) {
		row->recv_q = unread_of(sk, tp);
		if (tp)
			row->send_q = tp->write_seq - tp->snd_una;
		row->flags |= SOCKET_QUEUES;
	}
}

static __always_inline void row_subflow(struct whole_row *whole,
					struct tcp_sock *tp)
{
	struct mptcp_subflow_context *subflow;
	struct sock *parent;

	if (!is_subflow(tp))
		return;
	whole->row.flags |= SOCKET_SUBFLOW | SOCKET_MORE;
	subflow = tp->inet_conn.icsk_ulp_data;
	parent = BPF_CORE_READ(subflow, conn);
	if (parent)
		whole->more.parent =
		    BPF_CORE_READ(parent, __sk_common.skc_cookie.counter);
}

static __always_inline void row_traffic(struct socket_row *row,
					struct tcp_sock *tp)
{
	/* The peer's first sequence number after its FIN is our rcv_nxt. */
	if (tp->snd_wl1 == tp->rcv_nxt)
		row->flags |= SOCKET_ACKED_AFTER_FIN;
	row->last_send = ktime_of_ticks(row->at, tp->lsndtime);
	row->last_ack = ktime_of_ticks(row->at, tp->rcv_tstamp);
	row->acked_beyond = tp->bytes_acked + (tp->snd_nxt - tp->snd_una) -
			    (tp->bytes_sent - tp->bytes_retrans);
}

/*
 * Bound, and neither connected nor listening: since 6.8 the kernel has a name for it. A closed
 * socket still has its peer's port, unless it let go of it itself.
 */
static __always_inline __u8 state_of(struct sock *sk)
{
	__u8 state = sk->__sk_common.skc_state;

	if (state == TCP_CLOSE && sk->__sk_common.skc_num &&
	    !sk->__sk_common.skc_dport)
		return TCP_BOUND_INACTIVE;
	return state;
}

static __always_inline void row_of_sock(struct whole_row *whole,
					struct sock *sk, struct tcp_sock *tp)
{
	struct socket_row *row = &whole->row;

	row->cookie = id_of(sk);
	row->inode = inode_of(sk);
	row->cgroup = cgroup_of(sk);
	row->protocol = sk->sk_protocol;
	row->state = state_of(sk);
	row->shutdown = sk->sk_shutdown;
	if (sock_flag(sk, SOCK_KEEPOPEN))
		row->flags |= SOCKET_KEEPALIVE;
	if (sock_flag(sk, SOCK_DONE))
		row->flags |= SOCKET_FIN_RECEIVED;
	if (is_kernels(sk))
		row->flags |= SOCKET_KERNEL;
	row_queues(row, sk, tp);
	if (!tp)
		return;
	row_port(row, tp->inet_conn.icsk_bind_hash);
	if (row->state == TCP_LISTEN)
		return;
	whole->more.listener = listener_of(sk);
	if (whole->more.listener)
		row->flags |= SOCKET_MORE;
	row->snd_nxt = tp->snd_nxt;
	row->rcv_nxt = tp->rcv_nxt;
	row->flags |= SOCKET_SEQ;
	row_subflow(whole, tp);
	row_traffic(row, tp);
}

/* False: there was no room; the kernel comes again with the same socket or descriptor. */
static __always_inline bool write_whole(struct seq_file *seq,
					struct whole_row *whole)
{
	if (whole->row.flags & SOCKET_MORE)
		return !bpf_seq_write(seq, whole, sizeof(*whole));
	return !bpf_seq_write(seq, &whole->row, sizeof(whole->row));
}

static __noinline bool emit_socket(struct seq_file *seq, struct sock *sk,
				   struct tcp_sock *tp,
				   const struct record *rec)
{
	struct whole_row whole = {.row.kind = ROW_SOCKET};
	struct socket_row *row = &whole.row;
	struct dwell dwell;

	row->at = bpf_ktime_get_ns();
	row_of_sock(&whole, sk, tp);
	if (rec) {
		row_of_record(&whole, rec, tp);
	} else {
		row->flags |= SOCKET_BASELINE;
		baseline_dwell(&dwell, row->state, tp, row->at);
		row->since = dwell.since;
		row->earliest = dwell.earliest;
		row->bound = BOUND_AT_LEAST;
	}
	if (!row->flow.lport || !row->flow.rport)
		fill_flow(&row->flow, &sk->__sk_common);
	if (!row->flow.lport)
		row->flow.lport = former_port(sk);
	return !wanted_flow(&row->flow) || !wanted_pid(whole.more.owner.tgid) ||
	       write_whole(seq, &whole);
}

#define TIME_WAIT_LASTS 60000000000ULL /* TCP_TIMEWAIT_LEN, ns */

/* Since when it is there, at the latest: whatever it receives starts its time anew. */
static __always_inline void row_timer(struct whole_row *whole,
				      struct tcp_timewait_sock *tw)
{
	__s64 ticks = tw->tw_sk.tw_timer.expires - bpf_jiffies64();
	struct socket_row *row = &whole->row;
	__u64 ends = row->at + ticks * (__s64)(1000000000ULL / hz);

	whole->more.ends = ends;
	row->flags |= SOCKET_MORE;
	if (row->state != TCP_TIME_WAIT || ends <= TIME_WAIT_LASTS)
		return;
	row->since = ends - TIME_WAIT_LASTS;
	if (row->since > row->at)
		row->since = row->at;
	row->bound = BOUND_AT_LEAST;
}

/* Mini-sockets have no storage, no owner and no cookie of their own; tw: not a request. */
static __noinline void emit_mini(struct seq_file *seq, struct sock_common *skc,
				 struct tcp_timewait_sock *tw, __u8 state)
{
	struct whole_row whole = {.row.kind = ROW_SOCKET};
	struct socket_row *row = &whole.row;

	if (!wanted_row(state))
		return;
	row->at = bpf_ktime_get_ns();
	row->state = state;
	row->protocol = IPPROTO_TCP;
	row->flags = SOCKET_BASELINE;
	/* A connection request has its numbers elsewhere, and no peer that knows it. */
	if (tw) {
		row->snd_nxt = skc->skc_tw_snd_nxt;
		row->rcv_nxt = skc->skc_tw_rcv_nxt;
		row->flags |= SOCKET_SEQ;
		if (tw->tw_ts_recent_stamp)
			row->flags |= SOCKET_STAMPED;
		row_timer(&whole, tw);
		row_port(row, tw->tw_sk.tw_tb);
	}
	fill_flow(&row->flow, skc);
	if (wanted_flow(&row->flow))
		write_whole(seq, &whole);
}

static __always_inline int on_tcp_row(struct seq_file *seq,
				      struct sock_common *skc)
{
	struct tcp_timewait_sock *tw;
	struct tcp_sock *tp;
	struct record *rec;
	struct young *held;

	__sync_fetch_and_add(&snapshot_met, 1);
	tw = bpf_skc_to_tcp_timewait_sock(skc);
	if (tw) {
		emit_mini(seq, skc, tw, tw->tw_sk.tw_substate);
		return 0;
	}
	if (bpf_skc_to_tcp_request_sock(skc)) {
		emit_mini(seq, skc, NULL, TCP_NEW_SYN_RECV);
		return 0;
	}
	tp = bpf_skc_to_tcp_sock(skc);
	if (!tp)
		return 0;
	if (skc->skc_state == TCP_LISTEN && ((struct sock *)tp)->sk_ack_backlog)
		remember_queue((struct sock *)tp, tp);
	rec = snapshot_record((struct sock *)tp, tp, &held);
	if (rec)
		adopt_accepted(rec);
	if (wanted_row(skc->skc_state))
		emit_socket(seq, (struct sock *)tp, tp, rec);
	young_let_go(held);
	return 0;
}

/* A closed socket that a descriptor still refers to, and that had a peer. */
static __always_inline bool is_zombie(struct sock *sk)
{
	return sk->__sk_common.skc_state == TCP_CLOSE &&
	       sk->__sk_common.skc_dport;
}

/* Says whose the next descriptors are, if it has not been said. */
static __always_inline bool emit_holding(struct seq_file *seq,
					 struct task_struct *task)
{
	struct holding_row row = {.kind = ROW_HOLDING};
	__u64 id = (__u64)task->tgid << 32 | (__u32)task->pid;

	if (snapshot_task == id)
		return true;
	fill_task(&row.task, task);
	snapshot_task = id;
	return !bpf_seq_write(seq, &row, sizeof(row));
}

static __always_inline bool emit_listening(struct seq_file *seq, __u32 fd,
					   struct sock *sk, __u64 cookie)
{
	struct listening_row row = {.kind = ROW_LISTENING};

	row.fd = fd;
	row.cookie = cookie;
	row.inode = inode_of(sk);
	fill_flow(&row.flow, &sk->__sk_common);
	row.queue_len = sk->sk_ack_backlog;
	row.queue_max = sk->sk_max_ack_backlog;
	row.protocol = sk->sk_protocol;
	return !bpf_seq_write(seq, &row, sizeof(row));
}

static __noinline bool emit_holder(struct seq_file *seq,
				   struct task_struct *task, __u32 fd,
				   struct sock *sk, const struct record *rec)
{
	struct holder_row row = {.kind = ROW_HOLDER};

	row.fd = fd;
	row.cookie = rec ? rec->cookie : id_of(sk);
	row.netns = netns_of(&sk->__sk_common);
	row.state = state_of(sk);
	row.owns = rec && rec->evidence == EVIDENCE_SCAN &&
		   rec->owner.tgid == task->tgid;
	if (!emit_holding(seq, task))
		return false;
	if (row.state == TCP_LISTEN)
		return emit_listening(seq, fd, sk, row.cookie);
	return !bpf_seq_write(seq, &row, sizeof(row));
}

static __always_inline void own_by_scan(struct record *rec,
					struct task_struct *task)
{
	if (!snapshot_import || !rec || rec->evidence)
		return;
	fill_task(&rec->owner, task);
	rec->evidence = EVIDENCE_SCAN;
}

/*
 * Closed, merely bound and MPTCP sockets stand in no table iter/tcp walks; the
 * descriptor pass is the one place to meet them; so it is for all sockets of a
 * namespace nobody can enter. Held twice, written twice: Go keeps one.
 */
static __always_inline bool emit_unlisted(struct seq_file *seq, struct sock *sk,
					  struct record *rec)
{
	if (is_zombie(sk) || state_of(sk) == TCP_BOUND_INACTIVE ||
	    sk->sk_protocol == IPPROTO_MPTCP || snapshot_held)
		return emit_socket(seq, sk, bpf_skc_to_tcp_sock(sk), rec);
	return true;
}

static __always_inline int on_file_row(struct seq_file *seq,
				       struct task_struct *task, __u32 fd,
				       struct file *file)
{
	struct socket *socket = bpf_sock_from_file(file);
	struct young *held = NULL;
	struct record *rec;
	struct sock *sk;
	__u8 state;

	if (!socket || !task)
		return 0;
	sk = socket->sk;
	if (!sk)
		return 0;
	if (may_pass(sk))
		emit_passed(seq, task, fd, sk);
	if (!is_tcp(sk))
		return 0;
	state = state_of(sk);
	if (state != TCP_LISTEN && !snapshot_baseline && !wanted_row(state))
		return 0;
	if (state == TCP_CLOSE && !is_zombie(sk))
		return 0;
	/* What a socket that is merely bound will do is still to be watched from its start. */
	rec = state == TCP_BOUND_INACTIVE
		  ? stored_get(sk)
		  : snapshot_record(sk, bpf_skc_to_tcp_sock(sk), &held);
	if (state != TCP_LISTEN && state != TCP_BOUND_INACTIVE)
		own_by_scan(rec, task);
	/* Without room all of it comes again, and whose it is must be said again. */
	if (!emit_holder(seq, task, fd, sk, rec) ||
	    (wanted_row(state) && !emit_unlisted(seq, sk, rec)))
		snapshot_task = 0;
	young_let_go(held);
	return 0;
}

#endif
