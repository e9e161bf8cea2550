/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Where the threads of a process stand now, without stopping it. */
#ifndef THREADS_H
#define THREADS_H

/* A row must fit into the 32 KiB that the kernel hands out at a time. */
#define THREAD_BYTES 16384

/*
 * 0 -> the row that is being written.
 * Inserts: the thread iterator. Deletes: nobody. Full: fixed size; Go lets one run at a
 * time.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct raw_stack);
} thread_row SEC(".maps");

/* Sleeps where a page is not resident, so that it comes. */
static __always_inline void copy_thread(struct raw_stack *row,
					struct task_struct *task)
{
	__u64 sp = row->regs[REG_SP];
	__u32 i, at = 0, n;

	for (i = 0; i < THREAD_BYTES / PAGE; i++) {
		n = PAGE - ((sp + at) & (PAGE - 1));
		if (at > THREAD_BYTES - PAGE)
			break;
		barrier_var(n);
		if (n > PAGE)
			break;
		if (bpf_copy_from_user_task(row->memory + at, n,
					    (void *)(sp + at), task, 0))
			break;
		at += n;
	}
	row->len = at;
}

static __always_inline int on_thread(struct seq_file *seq,
				     struct task_struct *task)
{
	struct raw_stack *row;
	struct pt_regs *regs;
	__u32 zero = 0;

	if (task->tgid != chosen_tgid || !has_stack(task))
		return 0;
	row = bpf_map_lookup_elem(&thread_row, &zero);
	regs = (void *)bpf_task_pt_regs(task);
	if (!row || !regs)
		return 0;
	__builtin_memset(row, 0, offsetof(struct raw_stack, memory));
	row->kind = RING_RAW_STACK;
	row->at = bpf_ktime_get_ns();
	fill_task(&row->task, task);
	row->thread_pointer = thread_pointer(task);
	copy_registers(row->regs, regs);
	copy_thread(row, task);
	bpf_seq_write(seq, row,
		      offsetof(struct raw_stack, memory) + THREAD_BYTES);
	return 0;
}

/* The executable mappings of the chosen process, or of all. */
static __always_inline int on_mapping(struct seq_file *seq,
				      struct task_struct *task,
				      struct vm_area_struct *vma)
{
	struct mapping_row row = {};

	if (task->pid != task->tgid || !(vma->vm_flags & VM_EXEC))
		return 0;
	if (chosen_tgid && task->tgid != chosen_tgid)
		return 0;
	describe_mapping(&row.mapping, vma);
	row.tgid = task->tgid;
	bpf_seq_write(seq, &row, sizeof(row));
	return 0;
}

#endif
