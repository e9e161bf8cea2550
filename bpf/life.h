/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* exec and exit: what was known of a process is not true of the next one. */
#ifndef LIFE_H
#define LIFE_H

#define MAX_WANTED 1024

/*
 * program -> 1: its table is missing, and its processes were gone before it could be read.
 * Inserts, deletes: Go. Full: Go does without it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_WANTED);
	__type(key, struct file_key);
	__type(value, __u8);
} wanted_programs SEC(".maps");

/* How many there are: mostly none. */
__u32 wanted_count;

/* Lost, it costs one look at a process that is gone, or one raw stack. */
static __always_inline void tell_life(struct life *life)
{
	bpf_ringbuf_output(&ring, life, offsetof(struct life, path),
			   BPF_RB_NO_WAKEUP);
}

/* It may be gone in a moment: do not wait for the reader to come by. */
static __always_inline void tell_wanted(struct life *life,
					struct linux_binprm *bprm)
{
	bpf_probe_read_kernel_str(life->path, sizeof(life->path),
				  bprm->filename);
	bpf_ringbuf_output(&ring, life, sizeof(*life), BPF_RB_FORCE_WAKEUP);
}

static __always_inline bool is_wanted(struct life *life,
				      struct task_struct *task)
{
	struct file *file;

	bool relative = family_root && is_relative(task);

	if ((!relative && !wanted_count) || !task->mm)
		return false;
	file = BPF_CORE_READ(task, mm, exe_file);
	if (!file)
		return false;
	fill_key(&life->program, file);
	if (relative || bpf_map_lookup_elem(&wanted_programs, &life->program))
		return true;
	__builtin_memset(&life->program, 0, sizeof(life->program));
	return false;
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
static __always_inline int on_exec(struct task_struct *task,
				   struct linux_binprm *bprm)
{
	struct life life = {.kind = RING_EXEC, .tgid = task->tgid};
	__u32 parent = task->real_parent->tgid;
	bool known = had_sockets(life.tgid);

	if (family_root && is_relative(task))
		add_relative(task);
	if (known)
		forget(life.tgid);
	if (is_wanted(&life, task))
		tell_wanted(&life, bprm);
	else if (known || had_sockets(parent))
		tell_life(&life);
	return 0;
}

static __always_inline int on_exit(struct task_struct *task)
{
	struct life life = {.kind = RING_EXIT, .tgid = task->tgid};

	/* Of the last thread, whichever that is. */
	if (task->signal->live.counter > 0)
		return 0;
	if (family_root)
		end_relative(task);
	if (!had_sockets(life.tgid))
		return 0;
	forget(life.tgid);
	tell_life(&life);
	return 0;
}

#endif
