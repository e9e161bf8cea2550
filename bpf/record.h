/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The socket's record: creation, flow, owner. It is in one of two maps, and the verifier looks at
 * whatever is done to it for each of them; at global functions (those that are not static) it
 * looks once. They get no kernel pointers: kernels before 6.9 do not allow it. Following such a
 * pointer to another one is what takes it longest.
 */
#ifndef RECORD_H
#define RECORD_H

static __always_inline void v4_mapped(__u8 *to, __be32 addr)
{
	__builtin_memset(to, 0, 10);
	to[10] = 0xff;
	to[11] = 0xff;
	__builtin_memcpy(to + 12, &addr, sizeof(addr));
}

static __always_inline void fill_addresses(struct flow *flow,
					   struct sock_common *skc)
{
	if (skc->skc_family == AF_INET) {
		v4_mapped(flow->laddr, skc->skc_rcv_saddr);
		v4_mapped(flow->raddr, skc->skc_daddr);
		return;
	}
	__builtin_memcpy(flow->laddr, &skc->skc_v6_rcv_saddr,
			 sizeof(flow->laddr));
	__builtin_memcpy(flow->raddr, &skc->skc_v6_daddr, sizeof(flow->raddr));
}

static __always_inline void fill_flow_in(struct flow *flow,
					 struct sock_common *skc, __u32 netns)
{
	fill_addresses(flow, skc);
	flow->lport = skc->skc_num;
	flow->rport = bpf_ntohs(skc->skc_dport);
	flow->netns = netns;
}

static __always_inline void fill_flow(struct flow *flow,
				      struct sock_common *skc)
{
	fill_flow_in(flow, skc, netns_of(skc));
}

/* The port that a closed socket gave back still stands in inet_sport. */
static __always_inline __u16 former_port(struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	return tp ? bpf_ntohs(tp->inet_conn.icsk_inet.inet_sport) : 0;
}

/*
 * Ports are 0 before connect() has chosen one and again after the socket gave it
 * back, so what is known is never overwritten by 0.
 */
static __always_inline void remember_flow(struct record *rec, struct sock *sk,
					  __u32 netns)
{
	struct flow now = {};

	if (rec->flow.lport && rec->flow.rport)
		return;
	fill_flow_in(&now, &sk->__sk_common, netns);
	if (!now.lport)
		now.lport = former_port(sk);
	if (rec->flow.lport && !now.lport)
		now.lport = rec->flow.lport;
	if (rec->flow.rport && !now.rport)
		return;
	rec->flow = now;
}

static __always_inline void fill_task(struct task *to, struct task_struct *task)
{
	struct task_struct *leader = task->group_leader;

	to->start = leader->start_boottime;
	to->tgid = task->tgid;
	to->tid = task->pid;
	__builtin_memcpy(to->comm, leader->comm, sizeof(to->comm));
}

static __always_inline void fill_actor(struct actor *to,
				       struct task_struct *task)
{
	to->start = task->group_leader->start_boottime;
	to->tgid = task->tgid;
	to->tid = task->pid;
}

/* Kernel threads close and connect on behalf of others (MPTCP's worker). */
static __always_inline bool current_is_kthread(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return task->flags & PF_KTHREAD;
}

/* The current task is the owner. */
__noinline int own(struct record *rec, enum evidence evidence)
{
	if (!rec)
		return 0;
	fill_task(&rec->owner, bpf_get_current_task_btf());
	rec->evidence = evidence;
	rec->named = 0;
	return 0;
}

static __always_inline struct record *stored_get(struct sock *sk)
{
	return bpf_sk_storage_get(&records, sk, 0, 0);
}

static __always_inline struct record *stored_create(struct sock *sk)
{
	struct record *rec;

	rec = bpf_sk_storage_get(&records, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!rec)
		count(COUNTER_RECORD_FAILED, 1);
	return rec;
}

/* For the socket's own transitions. */
static __always_inline struct record *record_get(struct sock *sk)
{
	struct young *y = young_of(sk);

	return y ? &y->rec : stored_get(sk);
}

/* For everybody else, who must let go of it again. */
static __always_inline struct record *record_hold(struct sock *sk,
						  struct young **held)
{
	*held = young_hold(sk);
	return *held ? &(*held)->rec : stored_get(sk);
}

/*
 * The kernel's cookie names a TCP socket. An accepted MPTCP socket has its listener's
 * (it is copied with it), so these get numbers of our own above all cookies, and
 * below 2^53, where JSON numbers are still exact.
 */
#define OWN_ID (1ULL << 52)

/* The kernel numbers a socket when somebody asks for the first time. */
static __always_inline __u64 cookie_of(struct sock *sk)
{
	__u64 cookie = sk->__sk_common.skc_cookie.counter;

	return cookie ? cookie : bpf_get_socket_cookie(sk);
}

/* Made by a transition; what is old already is given a record in storage. */
static __always_inline struct record *record_create(struct sock *sk, bool young)
{
	struct record *rec = record_get(sk);
	struct young *y;

	if (rec)
		return rec;
	y = young ? young_create(cookie_of(sk)) : NULL;
	return y ? &y->rec : stored_create(sk);
}

/* The socket is closed: who still holds it needs its record, and nobody tells when no more. */
static __noinline void young_leave(struct sock *sk)
{
	struct young *y = young_of(sk);
	struct record *rec;

	if (!y)
		return;
	rec = sock_flag(sk, SOCK_DEAD) ? NULL : stored_create(sk);
	if (rec)
		*rec = y->rec;
	young_free(y, sk->__sk_common.skc_cookie.counter);
}

/* Where there is no record, the inode tells MPTCP sockets apart; 0 before accept(). */
static __always_inline __u64 id_of(struct sock *sk)
{
	__u64 inode;

	if (sk->sk_protocol != IPPROTO_MPTCP)
		return cookie_of(sk);
	inode = inode_of(sk);
	return inode ? OWN_ID | inode : 0;
}

/* A record keeps the number it was given; a moment in nanoseconds is unique enough. */
static __always_inline void identify(struct record *rec, struct sock *sk)
{
	if (sk->sk_protocol != IPPROTO_MPTCP)
		rec->cookie = cookie_of(sk);
	else if (!rec->cookie)
		rec->cookie = OWN_ID | (bpf_ktime_get_ns() & (OWN_ID - 1));
}

/* Bytes the application has written so far; data waiting to be sent included. */
static __always_inline __u64 written(struct tcp_sock *tp)
{
	return tp->bytes_acked + (__u32)(tp->write_seq - tp->snd_una);
}

/* What ss calls Recv-Q: unread bytes, a FIN counts as one. */
static __always_inline __u32 unread(struct tcp_sock *tp)
{
	return tp->rcv_nxt - tp->copied_seq;
}

/*
 * Whether EOF not told can be said: the reads were watched since before the FIN, and the one
 * that took it was among them. splice() takes it unseen.
 */
static __always_inline bool was_watched(const struct record *rec,
					struct tcp_sock *tp)
{
	if (!(rec->flags & RECORD_WATCHED))
		return false;
	return !tp || unread(tp) || rec->eof_at || rec->flags & RECORD_TOOK_FIN;
}

/* The same of any socket that is connected. */
static __always_inline __u32 unread_of(struct sock *sk, struct tcp_sock *tp)
{
	__u32 data;

	if (tp)
		return unread(tp);
	data = unread_mptcp(sk);
	/* Data that waits is followed by the end of data. */
	return data + !!data;
}

#endif
