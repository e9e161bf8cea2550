/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#ifndef RING_H
#define RING_H

/*
 * transitions and stacks, to user space.
 * Inserts: ring_reserve, send_stack, send_raw, tell_life. Deletes: the reader. Full: counted as LOST; the next
 * snapshot repairs the reader's table. Go sets the size.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} ring SEC(".maps");

/* made = received + lost holds because every reservation is counted here. */
static __always_inline struct transition *ring_reserve(void)
{
	struct transition *t;

	count(COUNTER_MADE);
	t = bpf_ringbuf_reserve(&ring, sizeof(*t), 0);
	if (!t)
		count(COUNTER_LOST);
	return t;
}

static __always_inline void ring_submit(struct transition *t)
{
	__u64 waiting = bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA);

	bpf_ringbuf_submit(t, waiting > wake_bytes ? BPF_RB_FORCE_WAKEUP
						   : BPF_RB_NO_WAKEUP);
}

#endif
