/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#ifndef RING_H
#define RING_H

/* More than one record, so that no crossing of the line is missed. */
#define WAKE_ZONE 512

/*
 * transitions and stacks, to user space.
 * Inserts: ring_write, send_stack, send_raw, tell_life. Deletes: the reader. Full: counted as LOST; the next
 * snapshot repairs the reader's table. Go sets the size.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} ring SEC(".maps");

/*
 * 0, or the ring was full. The reader is woken where the line is crossed and not again above
 * it: it is on its way then, or busy, and comes by itself.
 */
static __always_inline long ring_write(void *from, __u64 n)
{
	__u64 waiting = bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA);

	return bpf_ringbuf_output(&ring, from, n,
				  waiting - wake_bytes < WAKE_ZONE
				      ? BPF_RB_FORCE_WAKEUP
				      : BPF_RB_NO_WAKEUP);
}

#endif
