/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the user did not ask for stays in the kernel. */
#ifndef FILTER_H
#define FILTER_H

/* What is known of a change beside the socket's record. */
struct change {
	__u64 at;
	__u64 in_state;
	__u64 cgroup;
	__u32 closer;
	__u32 recv_q;
	__u32 sent_after_fin;
	__u16 flags; /* enum transition_flags */
	__u8 old_state;
	__u8 new_state;
	__u8 bound;
	__u8 pad[3];
	__u32 netns;
};

static __always_inline bool port_in(void *bitmaps, __u16 port)
{
	__u32 zero = 0;
	struct port_bitmap *set = bpf_map_lookup_elem(bitmaps, &zero);

	if (!set || !port)
		return false;
	return set->word[port / 64] & (1ULL << (port % 64));
}

static __always_inline bool is_v4(const __u8 *addr)
{
	return *(const __u64 *)addr == 0 &&
	       *(const __u32 *)(addr + 8) == bpf_htonl(0x0000ffff);
}

static __always_inline bool wanted_flow(const struct flow *flow)
{
	if (filter.netns && flow->netns != filter.netns)
		return false;
	if (filter.family && (filter.family == 4) != is_v4(flow->laddr))
		return false;
	if (filter.lports && !port_in(&lports, flow->lport))
		return false;
	return !filter.rports || port_in(&rports, flow->rport);
}

/* A socket nobody is known to own passes: user space decides later. */
static __always_inline bool wanted_pid(__u32 tgid)
{
	if (!filter.pids || !tgid)
		return true;
	return bpf_map_lookup_elem(&pids, &tgid);
}

static __always_inline bool wanted_states(__u32 states)
{
	return !filter.states || (filter.states & states);
}

/* What a transition that tells a close can lead to. */
#define CLOSES (1U << TCP_FIN_WAIT1 | 1U << TCP_CLOSING | 1U << TCP_CLOSE)

/* A reset has a closer. */
static __always_inline bool tells_close(const struct change *c)
{
	if (c->new_state == TCP_FIN_WAIT1)
		return true;
	if (c->new_state == TCP_CLOSING)
		return c->closer;
	return c->new_state == TCP_CLOSE &&
	       (c->closer || c->flags & TRANSITION_NO_PORT);
}

/* Of a record that tells two transitions it is enough that one is wanted; Go drops the other. */
static __always_inline __u32 states_of(const struct change *c)
{
	__u32 states = 1U << (c->old_state & 31) | 1U << (c->new_state & 31);

	if (c->flags & TRANSITION_BORN)
		states |= 1U << TCP_LISTEN;
	if (c->flags & TRANSITION_TIME_WAIT)
		states |= 1U << TCP_TIME_WAIT;
	return states;
}

/* False: nobody wants to know of it, whatever else it tells. */
static __always_inline bool may_be_wanted(int old, int new)
{
	__u32 states = 1U << (old & 31) | 1U << (new & 31);

	if (only_ends && old != TCP_CLOSE_WAIT)
		return false;
	if (only_closes && !(CLOSES & 1U << (new & 31)))
		return false;
	if (old == TCP_SYN_RECV)
		states |= 1U << TCP_LISTEN;
	if (new == TCP_CLOSE)
		states |= 1U << TCP_TIME_WAIT;
	return wanted_states(states);
}

static __always_inline bool wanted(const struct change *c,
				   const struct record *rec)
{
	return (!only_closes || tells_close(c)) &&
	       wanted_states(states_of(c)) && wanted_flow(&rec->flow) &&
	       wanted_pid(rec->owner.tgid) &&
	       (!filter.direction || rec->direction == filter.direction);
}

/* A state the running snapshot asks for. */
static __always_inline bool wanted_row(__u8 state)
{
	return snapshot_states & (1U << (state & 31));
}

#endif
