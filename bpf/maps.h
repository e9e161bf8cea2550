/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#ifndef MAPS_H
#define MAPS_H

#define PORT_WORDS   1024 /* 65536 bits */
#define MAX_PIDS     1024
#define MAX_ACCEPTED 16384

/*
 * socket -> its record.
 * Inserts: the state hook, the baseline pass. Deletes: the kernel, with the
 * socket. Full: never; creation can fail for want of memory, counted as
 * RECORD_FAILED and repaired by the next snapshot.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct record);
} records SEC(".maps");

/*
 * counter -> count, per CPU.
 * Inserts: everybody. Deletes: nobody, counts only grow. Full: fixed size.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTER_MAX);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

struct port_bitmap {
	__u64 word[PORT_WORDS];
};

/*
 * 0 -> set of ports the user chose (local, remote).
 * Inserts: Go, before attaching. Deletes: nobody. Full: fixed size.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct port_bitmap);
} lports SEC(".maps"), rports SEC(".maps");

/*
 * tgid -> 1: processes the user chose.
 * Inserts: Go, before attaching. Deletes: nobody. Full: Go refuses the flag.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PIDS);
	__type(key, __u32);
	__type(value, __u8);
} pids SEC(".maps");

/* Who accepted, and where in its code. */
struct acceptor {
	struct task task;
	__u64 stack;
};

/*
 * socket cookie -> task whose accept() returned it.
 * Inserts: the syscall-exit hook, where no hook has the socket itself. Deletes:
 * the state hook, once the owner is in the record. Full: the oldest goes; its
 * owner is then named by its first read or write.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_ACCEPTED);
	__type(key, __u64);
	__type(value, struct acceptor);
} accepted SEC(".maps");

struct handled {
	__u64 sk;
	__u32 old_state;
	__u32 new_state;
	/* As the counters of these names; a locked operation less each time. */
	__u64 made;
	__u64 filtered;
};

/*
 * 0 -> the transition that the state program took up last on this CPU, and what it counted.
 * Inserts: the state program, first of all. Deletes: nobody. Full: fixed size.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct handled);
} latest SEC(".maps");

static __always_inline struct handled *latest_here(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&latest, &zero);
}

/* A record for sockets that have none: there is no room for one on the BPF stack. */
struct spare {
	__u64 busy;
	struct record rec;
};

/*
 * 0 -> the spare record of this CPU.
 * Inserts: take_spare. Deletes: nobody. Full: fixed size; whoever finds it in use, in the middle
 * of another, counts a transition as LOST.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct spare);
} spares SEC(".maps");

static __always_inline struct spare *spare_here(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&spares, &zero);
}

static __always_inline void count(enum counter counter, __u64 by)
{
	__u32 key = counter;
	__u64 *n = bpf_map_lookup_elem(&counters, &key);

	/* An interrupt may count in the middle of it. */
	if (n)
		__sync_fetch_and_add(n, by);
}

/* By the state program, which the kernel does not interrupt by itself, unless it may nest. */
static __always_inline void count_here(__u64 *here, enum counter counter,
				       __u64 by)
{
	if (here && !may_nest)
		*here += by;
	else
		count(counter, by);
}

#endif
