/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The socket's record: creation, flow, owner. */
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
	/* The address is read as a whole: the mirror has only the bytes. */
	bpf_probe_read_kernel(flow->laddr, sizeof(flow->laddr),
			      &skc->skc_v6_rcv_saddr);
	bpf_probe_read_kernel(flow->raddr, sizeof(flow->raddr),
			      &skc->skc_v6_daddr);
}

static __always_inline void fill_flow(struct flow *flow,
				      struct sock_common *skc)
{
	fill_addresses(flow, skc);
	flow->lport = skc->skc_num;
	flow->rport = bpf_ntohs(skc->skc_dport);
	flow->netns = skc->skc_net.net->ns.inum;
}

/*
 * Ports are 0 before connect() has chosen one and again after the socket gave it
 * back, so what is known is never overwritten by 0.
 */
static __always_inline void remember_flow(struct record *rec, struct sock *sk)
{
	struct flow now = {};

	if (rec->flow.lport && rec->flow.rport)
		return;
	fill_flow(&now, &sk->__sk_common);
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
	bpf_probe_read_kernel_str(to->comm, sizeof(to->comm), leader->comm);
}

static __always_inline void own(struct record *rec, enum evidence evidence)
{
	fill_task(&rec->owner, bpf_get_current_task_btf());
	rec->evidence = evidence;
}

/* Kernel threads close and connect on behalf of others (MPTCP's worker). */
static __always_inline bool current_is_kthread(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return task->flags & PF_KTHREAD;
}

static __always_inline struct record *record_get(struct sock *sk)
{
	return bpf_sk_storage_get(&records, sk, 0, 0);
}

static __always_inline struct record *record_create(struct sock *sk)
{
	struct record *rec;

	rec = bpf_sk_storage_get(&records, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!rec)
		count(COUNTER_RECORD_FAILED);
	return rec;
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

#endif
