/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Waits that were over at once. Most are, where all is well, and of these nobody wants to know more
 * than how many there were, whose and where.
 */
#ifndef TALLY_H
#define TALLY_H

/* ns, as in package event: how long less it was is all one to the diagnosis. */
#define SHORT_WAIT  1000000ULL
#define MAX_TALLIES 4096

/* The owner, zero where nobody is known, and what Go calls a site. */
struct tally_key {
	__u64 start;
	__u32 tgid;
	__u16 port;
	__u8 direction;
	__u8 pad;
};

struct tally {
	struct task owner;
	__u64 n;
	__u64 longest; /* ns; inexact under contention */
};

/*
 * owner and site -> how many short waits have ended.
 * Inserts: tally_wait. Deletes: nobody. Full: such waits are told like all others.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_TALLIES);
	__type(key, struct tally_key);
	__type(value, struct tally);
} tallies SEC(".maps");

/*
 * When the last look ended; Go sets it, to all ones while it looks. The end of a wait that a look
 * can have found has to be told: Go keeps it until then.
 */
__u64 looked_until = ~0ULL;

static __always_inline struct tally *tally_of(const struct record *rec)
{
	struct tally_key key = {};
	struct tally fresh = {};
	struct tally *t;

	key.start = rec->owner.start;
	key.tgid = rec->owner.tgid;
	key.direction = rec->direction;
	key.port =
	    rec->direction == DIRECTION_OUT ? rec->flow.rport : rec->flow.lport;
	t = bpf_map_lookup_elem(&tallies, &key);
	if (t)
		return t;
	fresh.owner = rec->owner;
	bpf_map_update_elem(&tallies, &key, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&tallies, &key);
}

/* Counts the wait that ends with this change, and need not be told. */
__noinline bool tally_wait(const struct change *c, const struct record *rec)
{
	struct tally *t;

	if (!c || !rec || c->bound != BOUND_EXACT ||
	    c->in_state >= SHORT_WAIT || c->at - c->in_state <= looked_until ||
	    rec->flags & RECORD_SUBFLOW || !wanted_flow(&rec->flow))
		return false;
	t = tally_of(rec);
	if (!t)
		return false;
	__sync_fetch_and_add(&t->n, 1);
	if (c->in_state > t->longest)
		t->longest = c->in_state;
	return true;
}

#endif
