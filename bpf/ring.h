/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#ifndef RING_H
#define RING_H

/* More than one record, so that no crossing of the line is missed. */
#define WAKE_ZONE 512

/*
 * transitions and stacks, to user space.
 * Inserts: ring_write, send_stack, send_raw, tell_life. Deletes: the reader. Full: transitions go to
 * the overflow, stacks are counted as lost. Go sets the size.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} ring SEC(".maps");

/*
 * transitions for which the ring had no room: the reader is late. The ring is small, so that
 * it stays in the processor's cache; this one is as large as it need be, and rarely touched.
 * Inserts: ring_write. Deletes: the reader, after the ring. Full: counted as LOST. Go sets the
 * size.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} overflow SEC(".maps");

/*
 * Set when the ring is full: what comes then goes to the overflow, behind what is there. Go
 * resets it when it has read both.
 */
__u8 overflowing;

/* Set by Go when there has been nothing to read for a while. */
__u8 reader_sleeps;

/*
 * The reader is woken where the line is crossed, and not again above it: it is on its way then,
 * or busy.
 */
static __always_inline __u64 wakeup_here(void)
{
	if (reader_sleeps) {
		reader_sleeps = 0;
		return BPF_RB_FORCE_WAKEUP;
	}
	if (!wake_bytes)
		return BPF_RB_NO_WAKEUP;
	return bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) - wake_bytes <
		       WAKE_ZONE
		   ? BPF_RB_FORCE_WAKEUP
		   : BPF_RB_NO_WAKEUP;
}

/* 0, or both are full. */
static __always_inline long ring_write(void *from, __u64 n)
{
	if (!overflowing) {
		if (!bpf_ringbuf_output(&ring, from, n, wakeup_here()))
			return 0;
		overflowing = 1;
	}
	return bpf_ringbuf_output(&overflow, from, n, BPF_RB_NO_WAKEUP);
}

#endif
