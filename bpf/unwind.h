/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * One frame after the other: by tables made from .eh_frame and .gopclntab where the code
 * comes from a file, by what is known of its runtime where it does not, by frame pointer
 * only where that is right.
 */
#ifndef UNWIND_H
#define UNWIND_H

#define SEARCH_STEPS 24 /* 2^24 rows in a table */
#define MAX_SWITCHES 4	/* of stacks, between goroutine and C */

/* Go code called by C, or calling it, goes on on another stack, maybe a lower one. */
static __always_inline int step_go(struct walk *w)
{
	__u64 fp = w->reg[REG_FP];

	if (fp > 4096 && fp < w->reg[REG_SP] && w->switches < MAX_SWITCHES) {
		w->switches++;
		w->reg[REG_SP] = fp;
	}
	return step_frame_pointer(w);
}

/* The registers that the kernel saved below a handler: struct sigcontext. */
static __always_inline int step_signal(struct walk *w)
{
	/* After the return address: ucontext's flags, link and stack. */
	if (!read_user(w->memory, sizeof(w->memory), w->reg[REG_SP] + 40))
		return stop(w, REASON_UNREADABLE);
	w->reg[REG_R8] = w->memory[0];
	w->reg[REG_R9] = w->memory[1];
	w->reg[REG_R11] = w->memory[3];
	w->reg[REG_R13] = w->memory[5];
	w->reg[REG_R15] = w->memory[7];
	w->reg[REG_RDI] = w->memory[8];
	w->reg[REG_FP] = w->memory[10];
	w->reg[REG_RAX] = w->memory[13];
	w->reg[REG_SP] = w->memory[15];
	w->reg[REG_PC] = w->memory[16];
	w->returned = 0;
	return 0;
}

static __always_inline int step_cfa(struct walk *w, __u64 cfa)
{
	if (!read_user(w->memory, 8, cfa - 8))
		return stop(w, REASON_UNREADABLE);
	return arrive(w, w->memory[0], cfa);
}

static __always_inline int step_plt(struct walk *w)
{
	/* A slot is 16 bytes; from the 11th on its index has been pushed. */
	return step_cfa(w, w->reg[REG_SP] + 8 +
			       ((w->reg[REG_PC] & 15) >= 11 ? 8 : 0));
}

static __always_inline int step_unruled(struct walk *w)
{
	struct runtime *rt = runtime_of(w);

	/* V8's built-ins are in the file, without rows, and keep frame pointers. */
	if (rt && rt->v8)
		return step_frame_pointer(w);
	return stop(w, rt ? REASON_NO_RULE : REASON_NEW_RUNTIME);
}

static __always_inline int step_command(struct walk *w, const struct rule *r)
{
	switch (r->param) {
	case COMMAND_STOP:
		w->done = 1;
		return 1;
	case COMMAND_PLT:
		return step_plt(w);
	case COMMAND_SIGNAL:
		return step_signal(w);
	case COMMAND_FRAME_POINTER:
		return step_go(w);
	default:
		return step_unruled(w);
	}
}

__noinline int apply_rule(struct walk *w, __u32 number)
{
	struct rule *r;
	__u64 cfa;

	if (!w)
		return 1;
	r = bpf_map_lookup_elem(&rules, &number);
	if (!r)
		return step_unruled(w);
	if (r->flags & RULE_COMMAND)
		return step_command(w, r);
	/* After a call the registers it starts from hold something else. */
	if (r->flags & RULE_LEAF && w->returned)
		return stop(w, REASON_BAD_FRAME);
	cfa = w->reg[r->base & (REG_MAX - 1)];
	if (r->flags & RULE_DEREF) {
		/* The low bits are what to add afterwards, in words. */
		if (!read_user(w->memory, 8, cfa + (__s64)(r->param & ~7)))
			return stop(w, REASON_UNREADABLE);
		cfa = w->memory[0] + (r->param & 7) * 8;
	} else {
		cfa += (__s64)r->param;
	}
	w->reg[REG_CFA] = cfa;
	if (r->flags & RULE_IN_REGISTER)
		return arrive(
		    w, w->reg[r->aux & (REG_MAX - 1)] + (__s64)r->aux_param,
		    cfa);
	if (cfa <= w->reg[REG_SP] && !(r->flags & RULE_DEREF))
		return stop(w, REASON_BAD_FRAME);
	if (r->aux) {
		/* Unreadable only where the return address is, too. */
		if (read_user(w->memory, 8,
			      w->reg[r->aux & (REG_MAX - 1)] +
				  (__s64)r->aux_param))
			w->reg[REG_FP] = w->memory[0];
	} else if (r->base == REG_FP) {
		w->reg[REG_FP] = 0;
	}
	return step_cfa(w, cfa);
}

static __always_inline void describe_mapping(struct mapping *m,
					     struct vm_area_struct *vma)
{
	struct file *file = vma->vm_file;

	m->start = vma->vm_start;
	m->end = vma->vm_end;
	if (!file)
		return;
	m->offset = vma->vm_pgoff << 12;
	fill_key(&m->key, file);
}

static long on_vma(struct task_struct *task, struct vm_area_struct *vma,
		   void *to)
{
	describe_mapping(to, vma);
	return 0;
}

/* Neighbours on the stack often come from the same file: the last mapping is kept. */
__noinline int find_mapping(struct walk *w, __u64 pc)
{
	struct mapping m = {};
	long err;

	if (!w)
		return 1;
	if (pc >= w->map.start && pc < w->map.end)
		return 0;
	err = bpf_find_vma(bpf_get_current_task_btf(), pc, on_vma, &m, 0);
	w->map = m;
	if (err == -EBUSY)
		return stop(w, REASON_MAP_BUSY);
	if (err || pc < m.start || pc >= m.end) {
		w->map.end = 0;
		return stop(w, REASON_UNMAPPED);
	}
	return 0;
}

struct search {
	void *table;
	__u32 low;
	__u32 high;
	__u32 offset;
	__u32 pad;
};

static long search_step(__u32 i, void *ctx)
{
	struct search *s = ctx;
	__u32 middle = (s->low + s->high) >> 1;
	__u64 *row;

	if (s->low >= s->high)
		return 1;
	row = bpf_map_lookup_elem(s->table, &middle);
	if (!row) {
		s->low = s->high = 0;
		return 1;
	}
	if ((__u32)*row <= s->offset)
		s->low = middle + 1;
	else
		s->high = middle;
	return 0;
}

/* The rule for an offset in the file of the mapping; negative: there is no table. */
__noinline int find_rule(struct walk *w, __u64 offset)
{
	struct search s = {.low = 1, .offset = offset};
	struct file_key key;
	__u32 zero = 0;
	__u64 *row;

	if (!w)
		return -1;
	key = w->map.key;
	s.table = bpf_map_lookup_elem(&tables, &key);
	if (!s.table)
		return -1;
	row = bpf_map_lookup_elem(s.table, &zero);
	if (!row)
		return -1;
	w->object = *row >> 32;
	s.high = (__u32)*row + 1;
	bpf_loop(SEARCH_STEPS, search_step, &s, 0);
	if (s.low <= 1 || offset >> 32)
		return RULE_UNRULED;
	s.low--;
	row = bpf_map_lookup_elem(s.table, &s.low);
	return row ? (*row >> 32) & 0xffff : RULE_UNRULED;
}

static __always_inline struct memo *memo_at(__u32 slot)
{
	return bpf_map_lookup_elem(&memos, &slot);
}

static __always_inline __u32 slot_of(struct walk *w, __u64 pc)
{
	return ((pc ^ (w->epoch << 17)) * 0x9e3779b97f4a7c15ULL) >> 52;
}

static __always_inline bool holds(struct walk *w, struct memo *m, __u64 pc)
{
	return m && m->pc == pc && m->epoch == w->epoch && m->until >= w->now;
}

/*
 * An address has two places: with one, two frames of the same stack would now and then
 * drive each other out at each walk.
 */
static __always_inline struct memo *memo_of(struct walk *w, __u64 pc)
{
	__u32 slot = slot_of(w, pc);
	struct memo *m = memo_at(slot);

	if (holds(w, m, pc))
		return m;
	m = memo_at(slot ^ 1);
	return holds(w, m, pc) ? m : NULL;
}

/* The place for a new one: where the entry ends first. */
static __always_inline struct memo *memo_for(struct walk *w, __u64 pc)
{
	__u32 slot = slot_of(w, pc);
	struct memo *first = memo_at(slot);
	struct memo *second = memo_at(slot ^ 1);

	if (!first || !second)
		return NULL;
	return first->until <= second->until ? first : second;
}

/* Finds out about code that the memo does not know. */
__noinline int identify_code(struct walk *w, __u64 pc)
{
	struct memo *m;
	__u64 offset;
	int rule;

	if (!w || find_mapping(w, pc))
		return 1;
	m = memo_for(w, pc);
	if (!m)
		return 1;
	m->epoch = m->until = 0;
	if (!w->map.key.ino && !w->map.key.dev) {
		m->where = (__u64)FRAME_ANON << FRAME_KIND_SHIFT | pc;
		m->rule = RULE_ANON;
	} else {
		offset = pc - w->map.start + w->map.offset;
		rule = find_rule(w, offset);
		if (rule < 0) {
			w->out.missing = w->map;
			return stop(w, REASON_NO_TABLE);
		}
		m->where = (__u64)FRAME_FILE << FRAME_KIND_SHIFT |
			   (__u64)w->object << FRAME_OBJECT_SHIFT | offset;
		m->rule = rule;
	}
	m->pc = pc;
	m->until = w->now + MEMO_NS;
	m->epoch = w->epoch;
	return 0;
}

/* In a V8 process: the function, where the frame has one and not a marker (a Smi). */
static __always_inline __u64 function_of_v8(struct walk *w)
{
	__u64 fp = w->reg[REG_FP];

	if (fp <= w->reg[REG_SP] || !read_user(w->memory, 16, fp - 16))
		return 0;
	return w->memory[1] & 1 ? w->memory[0] : 0;
}

/* Code without a file: whoever made it knows how to leave it. */
__noinline int step_anonymous(struct walk *w, __u64 pc)
{
	struct runtime *rt;

	if (!w)
		return 1;
	rt = runtime_of(w);
	if (!rt)
		return stop(w, REASON_NEW_RUNTIME);
	if (rt->hotspot) {
		if (step_hotspot(w, rt, pc))
			return 1;
		if (w->kind)
			return 0;
	} else if (rt->trampoline) {
		/* CPython 3.12 -X perf: sub $8,%rsp; call */
		return step_cfa(w, w->reg[REG_SP] + 16);
	} else if (!rt->v8) {
		/* Most compilers at run time keep frame pointers, not all. */
		lower(w, QUALITY_FP_ONLY);
	}
	return step_frame_pointer(w);
}

/* Row 0 of the rules is "none". */
static __always_inline bool has_rule(__u32 rule)
{
	return rule && rule != RULE_ANON && rule != RULE_UNRULED;
}

__noinline int unwind_one(struct walk *w)
{
	__u64 pc, where;
	struct memo *m;
	__u32 rule;
	int end;

	if (!w)
		return 1;
	pc = w->reg[REG_PC] - w->returned;
	m = memo_of(w, pc);
	if (!m) {
		if (identify_code(w, pc)) {
			where = (__u64)FRAME_UNMAPPED << FRAME_KIND_SHIFT | pc;
			add_frame(w, where, 0);
			return 1;
		}
		m = memo_of(w, pc);
		if (!m)
			return 1;
	}
	where = m->where + w->returned;
	if (w->returned)
		where |= FRAME_RETURN;
	rule = m->rule;
	w->aux = w->has_v8 && !has_rule(rule) ? function_of_v8(w) : 0;
	if (rule != RULE_ANON)
		return add_frame(w, where, w->aux) || apply_rule(w, rule);
	w->kind = 0;
	end = step_anonymous(w, pc);
	if (w->kind)
		where = (where & ((1ULL << FRAME_KIND_SHIFT) - 1)) |
			(__u64)w->kind << FRAME_KIND_SHIFT;
	return add_frame(w, where, w->aux) || end;
}

static long unwind_step(__u32 i, void *ctx)
{
	struct walk *w = walk_here();

	return !w || unwind_one(w);
}

#endif
