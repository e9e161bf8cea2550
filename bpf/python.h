/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The frames of CPython: a list in its memory, beside the native stack. */
#ifndef PYTHON_H
#define PYTHON_H

#define MAX_THREADS	  1024
#define MAX_PYTHON_FRAMES 64

struct python_walk {
	__u64 thread;
	__u64 self; /* what pthread_self() gives: the base of %fs */
	__u64 frame;
	__u32 thread_id;
	__u32 thread_next;
};

static long python_thread(__u32 i, void *ctx)
{
	struct python_walk *p = ctx;
	__u64 id;

	if (!p->thread)
		return 1;
	if (!read_user(&id, 8, p->thread + p->thread_id)) {
		p->thread = 0;
		return 1;
	}
	if (id == p->self)
		return 1;
	if (!read_user(&p->thread, 8, p->thread + p->thread_next))
		p->thread = 0;
	return 0;
}

static __always_inline __u64 python_frame_bits(struct runtime *rt, __u64 frame)
{
	__u8 entry = 0;

	read_user(&entry, 1, frame + rt->frame_entry);
	if ((entry & rt->entry_mask) == rt->entry_value)
		return FRAME_RETURN;
	return 0;
}

/* Adds one frame and goes to the one that called it; 0 ends. */
__noinline __u64 python_frame(struct walk *w, __u64 frame)
{
	struct runtime *rt;
	__u64 code, instruction, previous;

	if (!w || !frame)
		return 0;
	rt = runtime_of(w);
	if (!rt || !read_user(&code, 8, frame + rt->frame_code) ||
	    !read_user(&instruction, 8, frame + rt->frame_instruction) ||
	    !read_user(&previous, 8, frame + rt->frame_previous))
		return 0;
	/* 3.13 and later tag some code pointers in the lowest bits. */
	code &= ((1ULL << 48) - 1) & ~3ULL;
	if (add_frame(w,
		      (__u64)FRAME_PYTHON << FRAME_KIND_SHIFT |
			  python_frame_bits(rt, frame) | code,
		      instruction))
		return 0;
	return previous;
}

static long python_step(__u32 i, void *ctx)
{
	struct python_walk *p = ctx;
	struct walk *w = walk_here();

	if (!w)
		return 1;
	p->frame = python_frame(w, p->frame);
	return !p->frame;
}

/* Appends the Python frames of this thread to the native ones. */
__noinline int walk_python(struct walk *w)
{
	struct python_walk p = {};
	struct runtime *rt;
	__u64 at;

	if (!w)
		return 0;
	rt = runtime_of(w);
	if (!rt || !rt->python)
		return 0;
	p.self = thread_pointer(bpf_get_current_task_btf());
	p.thread_id = rt->thread_id;
	p.thread_next = rt->thread_next;
	if (!read_user(&at, 8, rt->python + rt->interpreters_head) || !at ||
	    !read_user(&p.thread, 8, at + rt->threads_head))
		return 0;
	bpf_loop(MAX_THREADS, python_thread, &p, 0);
	if (!p.thread)
		return 0; /* not a thread of Python's */
	at = p.thread;
	if (!rt->no_cframe &&
	    (!read_user(&at, 8, p.thread + rt->cframe) || !at))
		return 0;
	if (!read_user(&p.frame, 8, at + rt->current_frame))
		return 0;
	bpf_loop(MAX_PYTHON_FRAMES, python_step, &p, 0);
	if (p.frame && w->out.reason == REASON_NONE)
		w->out.reason = REASON_TOO_DEEP;
	return 0;
}

#endif
