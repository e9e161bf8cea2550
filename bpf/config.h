/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What Go sets before or while the programs run. */
#ifndef CONFIG_H
#define CONFIG_H

/* Fixed at load: the verifier removes what is not chosen. */
const volatile struct filter filter;

/* Fixed at load: kernel ticks per second, from the running kernel. */
const volatile __u32 hz;

/*
 * Bytes waiting in the ring at which the reader is woken, 0 never. Otherwise it comes
 * by itself: one wake-up costs as much as twenty events.
 */
const volatile __u64 wake_bytes;

/* Fixed at load: before 6.1 an interrupt can run a program in the middle of itself. */
const volatile __u8 may_nest;

/* How user stacks are walked. */
enum unwinding {
	UNWINDER_NONE,	 /* no stacks are taken */
	UNWINDER_TABLES, /* in the kernel, by tables */
	UNWINDER_RAW, /* kernels before 5.17: Go by frame pointers, others in Go */
	UNWINDER_FP, /* machines without tables: by frame pointers */
};
const volatile __u32 unwinder;

/* Stacks one process may have in a second. */
const volatile __u32 stacks_per_s;

/* The close of a wait of this age has its stack taken, ns. */
const volatile __u64 stuck_after;

/* Every close has, whatever it ends. */
const volatile __u8 all_closes;

/* Only transitions that tell who closed first, or found no port to connect with. */
const volatile __u8 only_closes;

/* Only transitions out of CLOSE_WAIT: waits that are open are found by looking. */
const volatile __u8 only_ends;

/* Who read or wrote last is kept, with or without stacks. */
const volatile __u8 track_users;

/* Hooks watch, so sockets have records. */
const volatile __u8 live;

/* Set after attaching, when no hook sees accept(): first read or write names the owner. */
__u8 own_by_io;

/* Set when the syscall-exit hooks of accept() are attached: owners come by the map accepted. */
__u8 accepts_by_exit;

/*
 * Set once a recv hook is attached: from then on "not told EOF" is a fact, of plain TCP or
 * of all sockets.
 */
enum watch {
	WATCH_NOTHING,
	WATCH_TCP,
	WATCH_ALL,
};
__u8 watch_eof;

/*
 * Set once the hooks are attached that see a mini-socket leave FIN_WAIT2: only then its
 * TIME_WAIT can be left to them.
 */
__u8 late_time_wait;

/* The running snapshot; Go lets only one run at a time. */
__u32 snapshot_states;	/* bit n: rows for sockets in state n */
__u8 snapshot_import;	/* 1: give sockets a record, and a holder as owner */
__u8 snapshot_baseline; /* 1: descriptors of sockets in every state */
__u8 snapshot_held;	/* 1: rows for every socket with a descriptor */

/* The task whose descriptors are being written: pid and tgid; Go sets it to 0 before. */
__u64 snapshot_task;

/* The snapshot has put something into the map queued. */
__u8 snapshot_queued;

/* Sockets the snapshot met, in whatever state; Go sets it to 0 before. Passes count together. */
__u64 snapshot_met;

/* The process that is followed with its descendants; 0: none. */
const volatile __u32 family_root;

/* Processes the family iterator has added; Go sets it to 0 before. */
__u32 relatives_found;

/* The process whose threads or mappings are read; 0: mappings of all. */
__u32 chosen_tgid;

/* Results of the clock program. */
__u64 clock_ktime;
__u64 clock_jiffies;

#endif
