/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* exec and exit: what was known of a process is not true of the next one. */
#ifndef LIFE_H
#define LIFE_H

static __always_inline void tell_life(__u32 kind, __u32 tgid)
{
	struct life life = {.kind = kind, .tgid = tgid};

	/* Lost, it costs one look at a process that is gone, or one raw stack. */
	bpf_ringbuf_output(&ring, &life, sizeof(life), BPF_RB_NO_WAKEUP);
}

static __always_inline void forget(__u32 tgid)
{
	bpf_map_delete_elem(&budgets, &tgid);
	bpf_map_delete_elem(&runtimes, &tgid);
}

static __always_inline bool had_sockets(__u32 tgid)
{
	return bpf_map_lookup_elem(&runtimes, &tgid) ||
	       bpf_map_lookup_elem(&budgets, &tgid);
}

/* A program started by one that has sockets is likely to have some, too. */
static __always_inline int on_exec(struct task_struct *task)
{
	__u32 tgid = task->tgid;
	__u32 parent = task->real_parent->tgid;
	bool known = had_sockets(tgid);

	if (known)
		forget(tgid);
	if (known || had_sockets(parent))
		tell_life(RING_EXEC, tgid);
	return 0;
}

static __always_inline int on_exit(struct task_struct *task)
{
	__u32 tgid = task->tgid;

	/* Of the last thread, whichever that is. */
	if (task->signal->live.counter > 0 || !had_sockets(tgid))
		return 0;
	forget(tgid);
	tell_life(RING_EXIT, tgid);
	return 0;
}

#endif
