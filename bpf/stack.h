/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Taking the stack of the current task: who may, how often, and what is sent of it. */
#ifndef STACK_H
#define STACK_H

#define MAX_PROCESSES 8192
#define MAX_SEEN      16384
#define RAW_PER_S     64 /* raw stacks of one process in a second */
#define PAGE	      4096
#define SECOND	      1000000000ULL

/* What one process may have, and did have. */
struct budget {
	__u64 began;   /* the second that the counts are of */
	__u64 limited; /* stacks not taken since the process is known */
	__u64 epoch;   /* tells it from others that had the same tgid */
	__u32 taken;
	__u32 raw;
};

/*
 * tgid -> its budget.
 * Inserts: take_stack. Deletes: the exec and exit hooks. Full: the oldest goes and starts
 * anew; what is in the memos under its epoch is not found any more.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_PROCESSES);
	__type(key, __u32);
	__type(value, struct budget);
} budgets SEC(".maps");

/*
 * stack id -> 1: its frames were sent.
 * Inserts: send_stack. Deletes: nobody. Full: the oldest goes, its frames are sent again.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_SEEN);
	__type(key, __u64);
	__type(value, __u8);
} seen SEC(".maps");

/* Who has had its share. Most of those who ask for a stack have, and ask again at once. */
struct spent {
	__u64 until;   /* ticks: then the budget is to be asked again */
	__u64 limited; /* stacks not taken; not yet among those of the budget */
	__u64 epoch;   /* of the budget */
	__u32 tgid;
	__u32 pad;
};

/*
 * 0 -> the process last met on this CPU that has had its share.
 * Inserts: spend. Deletes: nobody. Full: fixed size.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct spent);
} spents SEC(".maps");

static __always_inline struct spent *spent_here(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&spents, &zero);
}

static __always_inline bool has_spent(struct spent *s, __u32 tgid)
{
	return s->tgid == tgid && bpf_jiffies64() < s->until;
}

/* Notes it for a sixteenth of a second, and settles what was noted before. */
static __always_inline void spend(struct spent *s, struct budget *b, __u32 tgid)
{
	__u32 before = s->tgid;
	struct budget *old = bpf_map_lookup_elem(&budgets, &before);

	if (old && old->epoch == s->epoch)
		__sync_fetch_and_add(&old->limited, s->limited);
	s->limited = 0;
	s->epoch = b->epoch;
	s->tgid = tgid;
	s->until = bpf_jiffies64() + hz / 16;
}

static __always_inline struct budget *budget_of(__u32 tgid, __u64 now)
{
	struct budget *b = bpf_map_lookup_elem(&budgets, &tgid);
	struct budget fresh = {};

	if (b)
		return b;
	fresh.epoch = (now ^ (__u64)tgid << 40) | 1;
	bpf_map_update_elem(&budgets, &tgid, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&budgets, &tgid);
}

/* Counts one stack, if there is one left in this second. Inexact under contention. */
static __always_inline bool afford(struct budget *b, __u64 now)
{
	if (now - b->began >= SECOND) {
		b->began = now;
		b->taken = 0;
		b->raw = 0;
	}
	if (b->taken >= stacks_per_s)
		return false;
	b->taken++;
	return true;
}

static __always_inline void limit(struct spent *s)
{
	s->limited++;
	count(COUNTER_STACKS_LIMITED, 1);
}

/* Only a task with user code of this machine's own kind has a stack to walk. */
static __always_inline bool has_stack(struct task_struct *task)
{
	return !(task->flags & (PF_KTHREAD | PF_IO_WORKER)) && task->mm &&
	       !is_32bit((void *)bpf_task_pt_regs(task));
}

static __always_inline void copy_registers(__u64 *reg, struct pt_regs *from)
{
	struct pt_regs___x86 *x86 = (void *)from;
	struct pt_regs___arm64 *arm = (void *)from;

	if (bpf_core_field_exists(x86->ip)) {
		reg[REG_PC] = x86->ip;
		reg[REG_SP] = x86->sp;
		reg[REG_FP] = x86->bp;
		reg[REG_RAX] = x86->ax;
		reg[REG_RDI] = x86->di;
		reg[REG_R8] = x86->r8;
		reg[REG_R9] = x86->r9;
		reg[REG_R11] = x86->r11;
		reg[REG_R13] = x86->r13;
		reg[REG_R15] = x86->r15;
	} else {
		reg[REG_PC] = arm->pc;
		reg[REG_SP] = arm->sp;
		reg[REG_FP] = arm->regs[29];
		reg[REG_LR] = arm->regs[30];
	}
}

struct copy {
	struct raw_stack *to;
	__u64 sp;
};

/* Page by page: one that is not resident ends it. */
static long copy_page(__u32 i, void *ctx)
{
	struct copy *c = ctx;
	__u32 at = c->to->len;
	__u32 n = PAGE - ((c->sp + at) & (PAGE - 1));

	if (at > RAW_BYTES - PAGE)
		return 1;
	/* For the verifier; n is 1 to PAGE. */
	barrier_var(n);
	if (n > PAGE)
		return 1;
	if (!read_user(c->to->memory + at, n, c->sp + at))
		return 1;
	c->to->len = at + n;
	return 0;
}

/* The stack as it is, for Go to unwind. */
__noinline int send_raw(struct walk *w, __u64 id)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct raw_stack *raw;
	struct copy c;
	__u32 i;

	if (!w || bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) > wake_bytes)
		return 0;
	raw = bpf_ringbuf_reserve(&ring, sizeof(*raw), 0);
	if (!raw)
		return 0;
	raw->kind = RING_RAW_STACK;
	raw->len = 0;
	raw->at = w->now;
	raw->id = id;
	raw->thread_pointer = 0;
	raw->missing = w->out.missing;
	raw->task = w->out.task;
	raw->reason = w->out.reason;
	raw->flags = w->out.flags;
	__builtin_memset(raw->pad, 0, sizeof(raw->pad));
	__builtin_memset(raw->regs, 0, sizeof(raw->regs));
	copy_registers(raw->regs, (void *)bpf_task_pt_regs(task));
	c.to = raw;
	c.sp = raw->regs[REG_SP];
	for (i = 0; i < RAW_BYTES / PAGE; i++)
		if (copy_page(i, &c))
			break;
	bpf_ringbuf_submit(raw, BPF_RB_NO_WAKEUP);
	return 1;
}

/* Frames of an id are sent once. */
__noinline int send_stack(struct walk *w, __u64 id)
{
	__u8 one = 1;
	__u32 size;

	if (!w)
		return 0;
	if (bpf_map_lookup_elem(&seen, &id))
		return 1;
	w->out.id = id;
	size = w->out.n & MAX_FRAMES;
	size = offsetof(struct stack, frames) + size * sizeof(struct frame);
	if (bpf_ringbuf_output(&ring, &w->out, size, BPF_RB_NO_WAKEUP)) {
		count(COUNTER_STACKS_LOST, 1);
		return 0;
	}
	bpf_map_update_elem(&seen, &id, &one, BPF_ANY);
	return 1;
}

static __always_inline void walk_frames(struct walk *w)
{
	w->out.quality = QUALITY_NONE;
	bpf_loop(MAX_FRAMES + 1, unwind_step, NULL, 0);
	lower(w, w->done ? QUALITY_COMPLETE : QUALITY_TRUNCATED);
	walk_python(w);
}

#define MAX_FP_FRAMES 64

__noinline int frame_by_pointer(struct walk *w)
{
	if (!w)
		return 1;
	if (add_frame(w,
		      (__u64)FRAME_UNMAPPED << FRAME_KIND_SHIFT |
			  (w->returned ? FRAME_RETURN : 0) | w->reg[REG_PC],
		      0))
		return 1;
	return step_frame_pointer(w);
}

/* Where there are no tables: return addresses by frame pointers, for what they are worth. */
static __always_inline void walk_frame_pointers(struct walk *w)
{
	__u32 i;

	for (i = 0; i < MAX_FP_FRAMES; i++)
		if (frame_by_pointer(w))
			break;
	w->out.quality = QUALITY_FP_ONLY;
	w->out.reason = REASON_NO_UNWINDER;
}

static __always_inline void prepare(struct walk *w, struct budget *b,
				    struct task_struct *task, __u64 now)
{
	struct runtime *rt;

	w->now = now;
	w->tgid = task->tgid;
	w->epoch = b->epoch;
	w->hash = b->epoch;
	w->aux = 0;
	w->map.start = w->map.end = 0;
	w->returned = w->done = w->switches = 0;
	__builtin_memset(&w->out, 0, offsetof(struct stack, frames));
	w->out.kind = RING_STACK;
	w->out.at = now;
	fill_task(&w->out.task, task);
	rt = runtime_of(w);
	w->has_v8 = rt && rt->v8;
	if (!rt)
		w->out.flags |= STACK_NEW_PROCESS;
	copy_registers(w->reg, (void *)bpf_task_pt_regs(task));
}

/* What the walk could not do is left to Go: as often as the budget allows. */
static __always_inline bool wants_raw(struct walk *w, struct budget *b)
{
	struct runtime *rt;

	if (b->raw >= RAW_PER_S)
		return false;
	if (unwinder == UNWINDER_TABLES)
		return w->out.reason == REASON_NO_TABLE ||
		       w->out.reason == REASON_NO_RULE ||
		       w->out.reason == REASON_MAP_BUSY ||
		       w->out.reason == REASON_NEW_RUNTIME;
	if (unwinder != UNWINDER_RAW)
		return false;
	rt = runtime_of(w);
	return !rt || !rt->go;
}

__noinline __u64 walk_and_send(struct walk *w)
{
	struct budget *b;
	__u32 tgid;
	__u64 id;

	if (!w)
		return 0;
	tgid = w->tgid;
	b = bpf_map_lookup_elem(&budgets, &tgid);
	if (!b)
		return 0;
	count(COUNTER_STACKS, 1);
	if (unwinder == UNWINDER_TABLES)
		walk_frames(w);
	else
		walk_frame_pointers(w);
	if (wants_raw(w, b)) {
		b->raw++;
		/* A stack of its own: what it is, Go finds out. */
		mix(w, w->now);
		id = w->hash | 1;
		if (send_raw(w, id))
			return id;
	}
	/* The next one may see more than this one. */
	if (w->out.reason)
		mix(w, w->out.reason);
	if (w->out.flags & STACK_NEW_PROCESS)
		mix(w, w->now);
	id = w->hash | 1;
	return send_stack(w, id) ? id : 0;
}

/* Stacks of what the user did not ask for are not taken. */
static __always_inline bool wants_stack_in(__u32 netns)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return (!filter.netns || filter.netns == netns) &&
	       (!family_root || is_relative(task)) && wanted_pid(task->tgid);
}

/* Of a close. */
static __always_inline bool wants_close_stack(struct sock *sk)
{
	return unwinder &&
	       wants_stack_in(filter.netns ? netns_of(&sk->__sk_common) : 0);
}

/* Of anything else. */
static __always_inline bool wants_stack(struct sock *sk)
{
	return !only_closes && wants_close_stack(sk);
}

/* The id of the stack of the current task, 0 if none could be taken. */
__noinline __u64 take_stack(void)
{
	struct spent *spent = spent_here();
	struct task_struct *task;
	struct budget *b;
	struct walk *w;
	__u64 now, id = 0;

	if (!unwinder || !spent)
		return 0;
	task = bpf_get_current_task_btf();
	if (has_spent(spent, task->tgid)) {
		limit(spent);
		return 0;
	}
	if (!has_stack(task))
		return 0;
	w = walk_here();
	now = bpf_ktime_get_ns();
	b = budget_of(task->tgid, now);
	if (!w || !b)
		return 0;
	if (!afford(b, now)) {
		spend(spent, b, task->tgid);
		limit(spent);
		return 0;
	}
	__sync_fetch_and_add(&w->busy, 1);
	barrier();
	if (w->busy == 1) {
		prepare(w, b, task, now);
		id = walk_and_send(w);
	} else {
		/* This one came in the middle of another. */
		count(COUNTER_STACKS_BUSY, 1);
	}
	barrier();
	__sync_fetch_and_add(&w->busy, -1);
	return id;
}

#endif
