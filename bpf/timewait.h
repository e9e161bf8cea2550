/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* TIME_WAIT: no socket is ever in it. A mini-socket is, made in that state or in FIN_WAIT2. */
#ifndef TIMEWAIT_H
#define TIMEWAIT_H

#define MAX_ORPHANS 16384

/* The transition that a mini-socket in FIN_WAIT2 is to make. */
struct orphan {
	struct change change;
	struct record rec;
};

/*
 * socket cookie -> the transition of its mini-socket.
 * Inserts: on_mini_socket, where that transition is wanted. Deletes: on_mini_after. Full: the
 * oldest goes; its transition is then told with what the mini-socket knows.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_ORPHANS);
	__type(key, __u64);
	__type(value, struct orphan);
} orphans SEC(".maps");

struct mini {
	__u64 tw;
	__u64 cookie;
};

/*
 * 0 -> the mini-socket in FIN_WAIT2 that a segment has come for, on this CPU.
 * Inserts: on_mini_before. Deletes: nobody. Full: fixed size.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct mini);
} received SEC(".maps");

static __always_inline struct mini *received_here(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&received, &zero);
}

static __noinline void await_time_wait(const struct change *c,
				       const struct record *rec)
{
	struct orphan orphan = {.change = *c, .rec = *rec};

	if (wanted(c, rec))
		bpf_map_update_elem(&orphans, &orphan.rec.cookie, &orphan,
				    BPF_ANY);
}

static __noinline void await_without_record(struct change *c, struct sock *sk)
{
	struct orphan orphan = {.change = *c};

	substitute(&orphan.rec, sk);
	if (wanted(c, &orphan.rec))
		bpf_map_update_elem(&orphans, &orphan.rec.cookie, &orphan,
				    BPF_ANY);
}

/* fexit inet_twsk_alloc: tw takes over, NULL if there is no room; sk is still whole. */
static __always_inline int on_mini_socket(struct sock *sk, int state,
					  struct inet_timewait_sock *tw)
{
	struct change c = {.new_state = TCP_TIME_WAIT};
	struct record *rec;

	/* DCCP has mini-sockets, too. */
	if (!is_tcp(sk) || (state != TCP_TIME_WAIT && !late_time_wait))
		return 0;
	rec = record_get(sk);
	if (rec)
		rec->flags |= RECORD_TIME_WAIT;
	if (!tw)
		return 0;
	c.at = bpf_ktime_get_ns();
	c.old_state = sk->__sk_common.skc_state;
	fill_change(&c, sk);
	if (rec)
		time_change(&c, rec);
	if (state != TCP_TIME_WAIT)
		rec ? await_time_wait(&c, rec) : await_without_record(&c, sk);
	else if (rec)
		tell(&c, rec, NULL);
	else
		tell_without_record(&c, sk);
	return 0;
}

/* fentry tcp_timewait_state_process: a segment for a mini-socket. */
static __always_inline int on_mini_before(struct inet_timewait_sock *tw)
{
	struct mini *here = received_here();

	if (!here)
		return 0;
	here->tw = tw->tw_substate == TCP_FIN_WAIT2 ? (__u64)tw : 0;
	here->cookie = tw->__tw_common.skc_cookie.counter;
	return 0;
}

static __noinline void tell_unknown(struct change *c, __u64 cookie,
				    struct inet_timewait_sock *tw)
{
	struct spare *spare = take_spare();

	if (!spare)
		return;
	spare->rec.cookie = cookie;
	fill_flow(&spare->rec.flow, &tw->__tw_common);
	tell(c, &spare->rec, NULL);
	give_spare(spare);
}

static __noinline void tell_late(struct inet_timewait_sock *tw, __u64 cookie)
{
	struct orphan *orphan = bpf_map_lookup_elem(&orphans, &cookie);
	struct change c = {.old_state = TCP_FIN_WAIT2,
			   .new_state = TCP_TIME_WAIT};
	__u64 now = bpf_ktime_get_ns();

	if (!orphan) {
		c.at = now;
		tell_unknown(&c, cookie, tw);
		return;
	}
	c = orphan->change;
	if (c.bound)
		c.in_state += now - c.at;
	c.at = now;
	tell(&c, &orphan->rec, NULL);
	bpf_map_delete_elem(&orphans, &cookie);
}

/* fexit: the FIN that it waited for makes it a TIME_WAIT. After anything else it may be gone. */
static __always_inline int on_mini_after(struct inet_timewait_sock *tw)
{
	struct mini *here = received_here();

	if (!here || here->tw != (__u64)tw ||
	    here->cookie != tw->__tw_common.skc_cookie.counter ||
	    tw->tw_substate != TCP_TIME_WAIT)
		return 0;
	here->tw = 0;
	tell_late(tw, here->cookie);
	return 0;
}

#endif
