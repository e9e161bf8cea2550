/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A process and all that descend from it, the ended ones included. */
#ifndef FAMILY_H
#define FAMILY_H

#define MAX_RELATIVES 65536

/*
 * process -> its name and its end. A number that is used again is another process.
 * Inserts: the fork hook, the family iterator. Deletes: nobody. Full: counted as
 * RELATIVES_LOST; descendants of a process that is not in it are not either.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_RELATIVES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct relative);
	__type(value, struct kin);
} family SEC(".maps");

static __always_inline struct relative relative_of(struct task_struct *task)
{
	struct relative key = {};

	key.start = task->group_leader->start_boottime;
	key.tgid = task->tgid;
	return key;
}

static __always_inline bool is_relative(struct task_struct *task)
{
	struct relative key = relative_of(task);

	return bpf_map_lookup_elem(&family, &key);
}

/* New, or with a new name. */
static __always_inline void add_relative(struct task_struct *task)
{
	struct relative key = relative_of(task);
	struct kin kin = {};

	bpf_probe_read_kernel_str(kin.comm, sizeof(kin.comm), task->comm);
	if (bpf_map_update_elem(&family, &key, &kin, BPF_ANY))
		count(COUNTER_RELATIVES_LOST, 1);
}

/* Its last thread ends; the kernel has not closed its files yet. */
static __always_inline void end_relative(struct task_struct *task)
{
	struct relative key = relative_of(task);
	struct kin *kin = bpf_map_lookup_elem(&family, &key);

	if (kin)
		kin->ended = bpf_ktime_get_ns();
}

static __always_inline int on_fork(struct task_struct *parent,
				   struct task_struct *child)
{
	/* Threads are of the process. */
	if (child->pid == child->tgid && is_relative(parent))
		add_relative(child);
	return 0;
}

/* What was there before the fork hook: the first process and its descendants. */
static __always_inline int on_relative(struct task_struct *task)
{
	if (task->pid != task->tgid || is_relative(task))
		return 0;
	if (task->tgid != family_root && !is_relative(task->real_parent))
		return 0;
	add_relative(task);
	relatives_found++;
	return 0;
}

#endif
