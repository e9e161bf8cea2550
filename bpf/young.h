/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Records of young sockets. Most sockets are gone in a moment, and storage that lives with the
 * socket costs two allocations and two frees; a place in a table costs next to nothing. A socket
 * whose place is taken has its record in storage, and so has one that somebody still holds when
 * its connection is gone: nobody tells of its end.
 */
#ifndef YOUNG_H
#define YOUNG_H

#define YOUNG_PLACES 4096 /* a power of two */
#define HOLD_BITS    16
#define NAME_TRIES   4
#define MAKING	     1ULL

struct young {
	/* The cookie << HOLD_BITS, and how many hold it; 0: free; MAKING: not to be seen yet. */
	__u64 name;
	struct record rec;
};

/*
 * cookie modulo its size -> the record of the socket.
 * Inserts: young_create. Deletes: young_leave, when the socket closes. Full: a socket whose place is
 * taken has its record in storage. Go sets the size; pages of its own align places to cache lines.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, YOUNG_PLACES);
	__type(key, __u32);
	__type(value, struct young);
} youngs SEC(".maps");

static __always_inline struct young *young_place(__u64 cookie)
{
	__u32 place = cookie & (YOUNG_PLACES - 1);

	return bpf_map_lookup_elem(&youngs, &place);
}

static __always_inline __u64 name_of(struct young *y)
{
	return *(volatile __u64 *)&y->name;
}

static __always_inline bool rename_young(struct young *y, __u64 from, __u64 to)
{
	return __sync_val_compare_and_swap(&y->name, from, to) == from;
}

/*
 * The socket's own, or NULL. For its transitions, which its lock keeps apart: nobody else takes the
 * record away. All others must hold it. An MPTCP socket can have another one's cookie.
 */
static __always_inline struct young *young_of(struct sock *sk)
{
	__u64 cookie = sk->__sk_common.skc_cookie.counter;
	struct young *y = young_place(cookie);

	if (!y || !cookie || name_of(y) >> HOLD_BITS != cookie ||
	    sk->sk_protocol != IPPROTO_TCP)
		return NULL;
	return y;
}

/* Compare and swap is fully ordered, plain addition is not: that is for the unlucky. */
static __always_inline void young_change(struct young *y, __u64 by)
{
	__u64 name;
	int i;

	for (i = 0; i < NAME_TRIES; i++) {
		name = name_of(y);
		if (rename_young(y, name, name + by))
			return;
	}
	__sync_fetch_and_add(&y->name, by);
}

/*
 * As long as it is held, what is written to it is not written to the record of another socket.
 * NULL as well where too many others were quicker.
 */
static __always_inline struct young *young_hold(struct sock *sk)
{
	struct young *y = young_of(sk);
	__u64 name;
	int i;

	if (!y)
		return NULL;
	for (i = 0; i < NAME_TRIES; i++) {
		name = name_of(y);
		if (name >> HOLD_BITS != sk->__sk_common.skc_cookie.counter)
			return NULL;
		if (rename_young(y, name, name + 1))
			return y;
	}
	return NULL;
}

static __always_inline void young_let_go(struct young *y)
{
	if (y)
		young_change(y, -1);
}

static __always_inline struct young *young_create(__u64 cookie)
{
	struct young *y = young_place(cookie);

	if (!y || !cookie || cookie >> (64 - HOLD_BITS) || name_of(y) ||
	    !rename_young(y, 0, MAKING))
		return NULL;
	__builtin_memset(&y->rec, 0, sizeof(y->rec));
	barrier();
	/* Nobody else changes the name now; x86 has stores seen in their order. */
	if (on_x86())
		*(volatile __u64 *)&y->name = cookie << HOLD_BITS;
	else
		rename_young(y, MAKING, cookie << HOLD_BITS);
	return y;
}

/* Whoever holds it may go on; the place is free when all have let go. */
static __always_inline void young_free(struct young *y, __u64 cookie)
{
	young_change(y, -(cookie << HOLD_BITS));
}

#endif
