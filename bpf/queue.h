/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Whose accept queue a connection waits in. The child does not know; the listener does. The
 * kernel's iterator gives listeners before their children.
 */
#ifndef QUEUE_H
#define QUEUE_H

#define MAX_QUEUED 65536

/*
 * address of a child -> its listener: a cookie, or for an MPTCP listener OWN_ID and the
 * inode, by which Go finds it among the holders.
 * Inserts: the pass over the tables, at a listener. Deletes: Go, after each pass. Full: the
 * others have no listener.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_QUEUED);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u64);
} queued SEC(".maps");

struct queue_walk {
	__u64 request; /* address of the next one */
	__u64 listener;
};

__noinline int queue_step(struct queue_walk *w)
{
	struct request_sock *request;
	__u64 child, listener;

	if (!w || !w->request)
		return 1;
	request = (void *)w->request;
	child = (__u64)BPF_CORE_READ(request, sk);
	/* Until 6.1 a value must be in a map or on the stack. */
	listener = w->listener;
	bpf_map_update_elem(&queued, &child, &listener, BPF_ANY);
	w->request = (__u64)BPF_CORE_READ(request, dl_next);
	return 0;
}

__noinline int queue_steps(struct queue_walk *w)
{
	__u32 i;

	for (i = 0; i < LOOP_STEPS; i++)
		if (queue_step(w))
			return 1;
	return 0;
}

__noinline int queue_more_steps(struct queue_walk *w)
{
	__u32 i;

	for (i = 0; i < LOOP_STEPS; i++)
		if (queue_steps(w))
			return 1;
	return 0;
}

/* The listener as the rows of its holders call it. */
static __always_inline __u64 listener_id(struct sock *sk, struct tcp_sock *tp)
{
	struct mptcp_subflow_context *subflow;
	struct sock *parent;

	if (!is_subflow(tp))
		return bpf_get_socket_cookie(sk);
	subflow = tp->inet_conn.icsk_ulp_data;
	parent = BPF_CORE_READ(subflow, conn);
	return parent ? OWN_ID | inode_of_untrusted(parent) : 0;
}

/* The pass holds the lock of the socket: nobody accepts meanwhile. */
static __noinline void remember_queue(struct sock *sk, struct tcp_sock *tp)
{
	struct queue_walk w;
	__u32 i;

	w.listener = listener_id(sk, tp);
	w.request = (__u64)tp->inet_conn.icsk_accept_queue.rskq_accept_head;
	snapshot_queued = 1;
	for (i = 0; i < MAX_QUEUED / LOOP_STEPS / LOOP_STEPS; i++)
		if (queue_more_steps(&w))
			break;
}

static __always_inline __u64 listener_of(struct sock *sk)
{
	__u64 child = (__u64)sk;
	__u64 *listener;

	if (sk->sk_socket)
		return 0;
	listener = bpf_map_lookup_elem(&queued, &child);
	return listener ? *listener : 0;
}

#endif
