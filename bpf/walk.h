/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A walk over the user stack of the current task: its state, and what it is made of.
 *
 * The state is in a per-CPU map, and the parts are functions that the verifier checks
 * one by one: kernels before 6.18 refuse more on the BPF stack, and all of them take a
 * second over one large program.
 */
#ifndef WALK_H
#define WALK_H

#define MEMO_SLOTS   4096 /* a power of two */
#define MEMO_NS	     10000000000ULL
#define MAX_FILES    4096
#define MAX_RULES    8192
#define MAX_RUNTIMES 4096

/* Flags, commands of a rule: as the table builder numbers them. */
enum rule_flags {
	RULE_COMMAND = 1 << 0,
	RULE_LEAF = 1 << 2,	  /* holds in the innermost frame only */
	RULE_DEREF = 1 << 3,	  /* the CFA is read from base + param */
	RULE_IN_REGISTER = 1 << 4 /* the return address is aux + aux_param */
};

enum rule_command {
	COMMAND_INVALID,
	COMMAND_STOP,
	COMMAND_PLT,
	COMMAND_SIGNAL,
	COMMAND_FRAME_POINTER,
};

/* Numbers no table has. */
#define RULE_ANON    0x10000 /* code without a file */
#define RULE_UNRULED 0x10001 /* code before the first row */

/* Code at one address: where it comes from and how to leave it. */
struct memo {
	__u64 pc;
	__u64 where; /* kind, file and offset of pc */
	__u64 until;
	__u64 epoch; /* of the process; 0: empty */
	__u32 rule;
	__u32 pad;
};

struct walk {
	__u64 reg[REG_MAX];
	__u64 memory[17];   /* what was read last */
	struct mapping map; /* the mapping of the last frame */
	__u64 hash;
	__u64 aux; /* what a runtime says of the frame */
	__u64 now;
	__u64 epoch;
	__u64 busy; /* walks begun on this CPU and not ended */
	__u32 tgid;
	__u32 object;
	__u32 kind;    /* enum frame_kind, if a runtime knows better */
	__u8 returned; /* REG_PC is a return address */
	__u8 done;     /* a stop rule or a zero return address */
	__u8 switches;
	__u8 has_v8;
	struct stack out;
};

/*
 * 0 -> the walk of this CPU.
 * Inserts: take_stack. Deletes: nobody. Full: fixed size; whoever finds it in use takes
 * no stack, counted as STACKS_BUSY.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct walk);
} walks SEC(".maps");

/*
 * hash of (process, address) -> what is known of the code there, per CPU.
 * Inserts: unwind_one. Deletes: nobody; entries say until when they hold. Full: an entry
 * takes the place of another.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MEMO_SLOTS);
	__type(key, __u32);
	__type(value, struct memo);
} memos SEC(".maps");

/*
 * file -> its unwind table. Row 0: number of rows, number of the file. Rows: file offset,
 * rule; ascending.
 * Inserts, deletes: Go. Full: Go drops the table that was used last the longest ago.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, MAX_FILES);
	__type(key, struct file_key);
	__array(
	    values, struct {
		    __uint(type, BPF_MAP_TYPE_ARRAY);
		    __uint(max_entries, 1);
		    __uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE);
		    __type(key, __u32);
		    __type(value, __u64);
	    });
} tables SEC(".maps");

/*
 * number -> rule; all tables share them.
 * Inserts: Go, before the table that names it. Deletes: nobody. Full: Go refuses tables.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_RULES);
	__type(key, __u32);
	__type(value, struct rule);
} rules SEC(".maps");

/*
 * tgid -> its language runtime; there is an entry without any, too.
 * Inserts: Go, when it has looked at the process. Deletes: the exec and exit hooks. Full:
 * the oldest goes, Go looks again.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_RUNTIMES);
	__type(key, __u32);
	__type(value, struct runtime);
} runtimes SEC(".maps");

static __always_inline struct walk *walk_here(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&walks, &zero);
}

static __always_inline struct runtime *runtime_of(struct walk *w)
{
	/* Until 6.1 the key must be in a map or on the stack. */
	__u32 tgid = w->tgid;

	return bpf_map_lookup_elem(&runtimes, &tgid);
}

static __always_inline bool read_user(void *to, __u32 size, __u64 from)
{
	return !bpf_probe_read_user(to, size, (void *)from);
}

/* The walk ends here, and not at the end of the stack. */
static __always_inline int stop(struct walk *w, enum unwind_reason reason)
{
	w->out.reason = reason;
	return 1;
}

static __always_inline void lower(struct walk *w, enum quality quality)
{
	if (w->out.quality < quality)
		w->out.quality = quality;
}

static __always_inline int arrive(struct walk *w, __u64 pc, __u64 sp)
{
	w->reg[REG_PC] = pc;
	w->reg[REG_SP] = sp;
	w->returned = 1;
	if (!pc)
		w->done = 1;
	return !pc;
}

static __always_inline void mix(struct walk *w, __u64 value)
{
	w->hash = (w->hash ^ value) * 0x9e3779b97f4a7c15ULL;
	w->hash ^= w->hash >> 29;
}

static __always_inline int add_frame(struct walk *w, __u64 where, __u64 aux)
{
	__u32 n = w->out.n;

	if (n >= MAX_FRAMES)
		return stop(w, REASON_TOO_DEEP);
	n &= MAX_FRAMES;
	w->out.frames[n].where = where;
	w->out.frames[n].aux = aux;
	w->out.n = n + 1;
	mix(w, where);
	mix(w, aux);
	return 0;
}

static __always_inline int step_frame_pointer(struct walk *w)
{
	__u64 fp = w->reg[REG_FP];

	if (fp + below_sp() < w->reg[REG_SP])
		return stop(w, REASON_BAD_FRAME);
	if (!read_user(w->memory, 16, fp))
		return stop(w, REASON_UNREADABLE);
	w->reg[REG_FP] = w->memory[0];
	return arrive(w, w->memory[1], fp + 16);
}

#endif
