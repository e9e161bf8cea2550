/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Sockets in unix-socket messages (SCM_RIGHTS) that nobody has received yet.
 *
 * Nothing is locked. What is read counts only if the first message of the queue is the same
 * afterwards, for messages are taken from the front: then the others are in it, too.
 */
#ifndef PASSED_H
#define PASSED_H

#define MAX_PASSED_ROWS                                                        \
	400 /* of one descriptor: the kernel hands out 32 KiB at a time */
#define MAX_FDS 253 /* SCM_MAX_FD: of one message */

enum passed_step {
	PASSED_MORE,
	PASSED_END,
	PASSED_TOO_MANY,
};

/* Where the walk stands, by addresses of the kernel's, and what it has found. */
struct passing {
	__u64 outer;	  /* the descriptor's queue */
	__u64 first;	  /* its first element when the walk began */
	__u64 connection; /* of a listener's queue: not accepted yet */
	__u64 queue;	  /* the messages, the same as outer without listener */
	__u64 next;	  /* message to look at next */
	__u64 message;
	__u64 list; /* its descriptors */
	__u32 i;
	__u32 n;
	__u32 listening;
	__u32 rows;
	struct passed_row found; /* the next row */
	struct passed_row row[MAX_PASSED_ROWS + 1];
};

/*
 * 0 -> the walk through a queue.
 * Inserts: the descriptor pass. Deletes: nobody. Full: fixed size; Go lets one run at a
 * time.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct passing);
} passing SEC(".maps");

static __always_inline __u64 next_in_queue(__u64 element)
{
	return (__u64)BPF_CORE_READ((struct sk_buff *)element, next);
}

static __always_inline __u64 front_of_queue(__u64 queue)
{
	return (__u64)BPF_CORE_READ((struct sk_buff_head *)queue, next);
}

static __always_inline __u64 queue_of(struct sock *sk)
{
	return (__u64)&sk->sk_receive_queue;
}

/* Of the connection the walk stands at. */
static __always_inline void enter_connection(struct passing *w)
{
	struct sk_buff *skb = (void *)w->connection;

	w->queue = queue_of(BPF_CORE_READ(skb, sk));
	w->next = front_of_queue(w->queue);
}

static __always_inline void begin_passing(struct passing *w)
{
	w->first = front_of_queue(w->outer);
	w->i = w->n = 0;
	w->queue = w->outer;
	w->next = w->first;
	if (!w->listening)
		return;
	w->connection = w->first;
	if (w->connection != w->outer)
		enter_connection(w);
}

static __always_inline bool has_moved(struct passing *w)
{
	return front_of_queue(w->outer) != w->first;
}

static __always_inline struct unix_skb_parms *parms_of(__u64 message)
{
	return (void *)(message + bpf_core_field_offset(struct sk_buff, cb));
}

static __always_inline struct scm_fp_list *list_of(__u64 message)
{
	struct unix_skb_parms *parms = parms_of(message);

	return BPF_CORE_READ(parms, fp);
}

static __always_inline __u32 sender_of(__u64 message)
{
	struct unix_skb_parms *parms = parms_of(message);
	struct pid *pid = BPF_CORE_READ(parms, pid);

	return pid ? BPF_CORE_READ(pid, numbers[0].nr) : 0;
}

/* The next message, or the next connection of a listener. */
static __always_inline enum passed_step next_message(struct passing *w)
{
	struct scm_fp_list *list;

	if (w->next == w->queue) {
		if (!w->listening)
			return PASSED_END;
		w->connection = next_in_queue(w->connection);
		if (w->connection == w->outer)
			return PASSED_END;
		enter_connection(w);
		return PASSED_MORE;
	}
	w->message = w->next;
	w->next = next_in_queue(w->message);
	list = list_of(w->message);
	if (!list)
		return PASSED_MORE;
	w->list = (__u64)list;
	w->i = 0;
	w->n = BPF_CORE_READ(list, count);
	if (w->n > MAX_FDS)
		w->n = MAX_FDS;
	w->found.sender = sender_of(w->message);
	return PASSED_MORE;
}

/* A socket's file has the inode that lies beside the socket. */
static __always_inline struct sock *sock_of_file(struct file *file)
{
	struct socket_alloc *alloc = BPF_CORE_READ(file, private_data);

	if (!alloc || BPF_CORE_READ(file, f_inode) != &alloc->vfs_inode)
		return NULL;
	return BPF_CORE_READ(alloc, socket.sk);
}

static __always_inline bool wants_passed(struct sock *sk)
{
	__u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);

	if (!is_tcp_kind(BPF_CORE_READ(sk, __sk_common.skc_family),
			 BPF_CORE_READ(sk, sk_protocol)))
		return false;
	if (filter.netns &&
	    filter.netns != BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum))
		return false;
	/* As is_zombie. */
	if (state == TCP_CLOSE && !BPF_CORE_READ(sk, __sk_common.skc_dport))
		return false;
	return wanted_row(state);
}

/* False: there is room for the row that says so, and no other. */
static __always_inline bool add_passed(struct passing *w)
{
	__u64 n = w->rows;

	if (n >= MAX_PASSED_ROWS && w->found.inode)
		return false;
	/* For the verifier. */
	barrier_var(n);
	if (n > MAX_PASSED_ROWS)
		return false;
	w->row[n] = w->found;
	w->rows = n + 1;
	return true;
}

/* The next reference of a message. */
static __always_inline enum passed_step next_reference(struct passing *w)
{
	struct scm_fp_list *list = (void *)w->list;
	struct file *file;
	struct sock *sk;

	w->found.slot = (__u64)&list->fp + w->i * sizeof(file);
	w->i++;
	if (bpf_probe_read_kernel(&file, sizeof(file), (void *)w->found.slot) ||
	    !file)
		return PASSED_MORE;
	sk = sock_of_file(file);
	if (!sk || !wants_passed(sk))
		return PASSED_MORE;
	w->found.cookie = 0;
	if (BPF_CORE_READ(sk, sk_protocol) != IPPROTO_MPTCP)
		w->found.cookie =
		    BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	w->found.inode = inode_of_untrusted(sk);
	/* Received meanwhile? A stream's message stays when its descriptors go. */
	if (has_moved(w) || list_of(w->message) != list)
		return PASSED_MORE;
	return add_passed(w) ? PASSED_MORE : PASSED_TOO_MANY;
}

__noinline int passed_step(struct passing *w)
{
	if (!w)
		return PASSED_END;
	if (has_moved(w)) {
		begin_passing(w);
		return PASSED_MORE;
	}
	if (w->i < w->n)
		return next_reference(w);
	return next_message(w);
}

__noinline int passed_steps(struct passing *w)
{
	__u32 i;
	int step;

	for (i = 0; i < LOOP_STEPS; i++) {
		step = passed_step(w);
		if (step != PASSED_MORE)
			return step;
	}
	return PASSED_MORE;
}

static __noinline void emit_passed(struct seq_file *seq,
				   struct task_struct *task, __u32 fd,
				   struct sock *sk)
{
	int step = PASSED_MORE;
	struct passing *w;
	__u32 zero = 0, i;
	__u64 n;

	w = bpf_map_lookup_elem(&passing, &zero);
	if (!w)
		return;
	w->outer = queue_of(sk);
	w->listening = sk->__sk_common.skc_state == TCP_LISTEN;
	/* Differs from any first element: the first step begins. */
	w->first = 0;
	w->rows = 0;
	__builtin_memset(&w->found, 0, sizeof(w->found));
	w->found.kind = ROW_PASSED;
	w->found.fd = fd;
	fill_task(&w->found.receiver, task);
	for (i = 0; i < LOOP_STEPS && step == PASSED_MORE; i++)
		step = passed_steps(w);
	if (step != PASSED_END) {
		w->found.inode = 0;
		w->found.flags = PASSED_CUT;
		add_passed(w);
	}
	n = w->rows;
	/* For the verifier. */
	barrier_var(n);
	if (n <= MAX_PASSED_ROWS + 1)
		bpf_seq_write(seq, w->row, n * sizeof(w->found));
}

static __always_inline bool may_pass(struct sock *sk)
{
	return sk->__sk_common.skc_family == AF_UNIX &&
	       sk->sk_receive_queue.qlen &&
	       bpf_core_type_exists(struct unix_skb_parms);
}

#endif
