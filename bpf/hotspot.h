/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Java frames: HotSpot's interpreter and the code it compiled. */
#ifndef HOTSPOT_H
#define HOTSPOT_H

#define MAX_HOPS	   64	     /* back to the start of a block */
#define MAX_LOCALS	   (1 << 20) /* bytes between a frame and its caller's */
#define MAX_COMPILED_WORDS 4096

struct hop {
	__u64 segmap;
	__u64 segment;
	__u64 found;
};

/* The segment map says how many segments to go back; 0 is the first of a block. */
static long hop_step(__u32 i, void *ctx)
{
	struct hop *h = ctx;
	__u8 back;

	if (!read_user(&back, 1, h->segmap + h->segment) || back == 0xff)
		return 1;
	if (!back) {
		h->found = 1;
		return 1;
	}
	if (back > h->segment)
		return 1;
	h->segment -= back;
	return 0;
}

/* The CodeBlob that an address is in, 0 if none. */
__noinline __u64 find_blob(__u32 tgid, __u64 pc)
{
	struct runtime *rt = bpf_map_lookup_elem(&runtimes, &tgid);
	struct hop h = {};
	__u64 low = 0;
	int i;

	if (!rt)
		return 0;
	for (i = 0; i < MAX_CODE_HEAPS; i++) {
		if (pc < rt->heaps[i].low || pc >= rt->heaps[i].high)
			continue;
		low = rt->heaps[i].low;
		h.segmap = rt->heaps[i].segmap;
		break;
	}
	if (!low)
		return 0;
	h.segment = (pc - low) >> (rt->segment_log2 & 63);
	bpf_loop(MAX_HOPS, hop_step, &h, 0);
	if (!h.found)
		return 0;
	return low + (h.segment << (rt->segment_log2 & 63)) + rt->block_header;
}

/* The caller goes on where our arguments began: at the saved sender SP. */
static __always_inline int step_interpreted(struct walk *w)
{
	__u64 fp = w->reg[REG_FP];
	__u64 sp;

	if (fp < w->reg[REG_SP])
		return stop(w, REASON_BAD_FRAME);
	/* Method*, sender SP two words on, saved frame pointer, return address */
	if (!read_user(w->memory, 40, fp - 24))
		return stop(w, REASON_UNREADABLE);
	w->aux = w->memory[0];
	w->kind = FRAME_INTERPRETED;
	sp = w->memory[2];
	if (sp < fp + 16 || sp >= fp + MAX_LOCALS)
		sp = fp + 16;
	w->reg[REG_FP] = w->memory[3];
	return arrive(w, w->memory[4], sp);
}

/* Leaves w->kind at 0 where it knows no way to go on. */
static __always_inline int step_hotspot(struct walk *w, struct runtime *rt,
					__u64 pc)
{
	__u32 words;
	__u64 cfa;

	if (pc >= rt->interpreter_low && pc < rt->interpreter_high)
		return step_interpreted(w);
	w->aux = find_blob(w->tgid, pc);
	if (!w->aux || !read_user(&words, 4, w->aux + rt->blob_frame_size)) {
		w->aux = 0;
		return 0;
	}
	w->kind = FRAME_COMPILED;
	if (!words || words > MAX_COMPILED_WORDS)
		return step_frame_pointer(w); /* a stub */
	cfa = w->reg[REG_SP] + words * 8;
	if (!read_user(w->memory, 16, cfa - 16))
		return stop(w, REASON_UNREADABLE);
	w->reg[REG_FP] = w->memory[0];
	return arrive(w, w->memory[1], cfa);
}

#endif
