/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The contract with Go: everything that leaves the kernel. bpf2go makes Go
 * types from these structs, so there is no second definition. 8-byte members
 * first, pads explicit and zeroed, nothing packed.
 *
 * 0 means unknown in every field that does not say otherwise.
 */
#ifndef EVENTS_H
#define EVENTS_H

#pragma clang diagnostic push
#pragma clang diagnostic error "-Wpadded"

#define COMM_LEN 16

enum bound {
	BOUND_UNKNOWN,
	BOUND_EXACT,
	BOUND_AT_LEAST,
};

enum direction {
	DIRECTION_UNKNOWN,
	DIRECTION_IN,
	DIRECTION_OUT,
};

/* Why a task is held to own a socket; order as in internal/event. */
enum evidence {
	EVIDENCE_NONE,
	EVIDENCE_ACCEPT,
	EVIDENCE_CONNECT,
	EVIDENCE_READ,
	EVIDENCE_WRITE,
	EVIDENCE_LISTEN,
	EVIDENCE_CLOSE,
	EVIDENCE_SCAN,
};

struct task {
	__u64 start; /* ns since boot (CLOCK_BOOTTIME), of the group leader */
	__u32 tgid;
	__u32 tid;
	char comm[COMM_LEN]; /* of the group leader */
};

struct flow {
	__u8 laddr[16]; /* IPv4 as ::ffff:a.b.c.d */
	__u8 raddr[16];
	__u32 netns;
	__u16 lport; /* host order */
	__u16 rport;
};

enum transition_flags {
	TRANSITION_INFERRED = 1 << 0, /* follows from others, not reported */
	TRANSITION_SUBFLOW = 1 << 1, /* of an MPTCP socket, which has its own */
};

/* One state change, in the ring buffer. */
struct transition {
	__u64 at; /* bpf_ktime_get_ns */
	__u64 cookie;
	__u64 in_state; /* ns in the old state; see bound */
	__u64 cgroup;
	struct flow flow;
	struct task owner;
	__u16 protocol;
	__u8 old_state;
	__u8 new_state;
	__u8 bound;
	__u8 direction;
	__u8 evidence;
	__u8 flags;
};

enum record_flags {
	RECORD_BASELINE = 1 << 0,  /* the socket was there before us */
	RECORD_WATCHED = 1 << 1,   /* reads watched since before CLOSE_WAIT */
	RECORD_SENT = 1 << 2,	   /* sent_at_fin is valid */
	RECORD_CONNECTED = 1 << 3, /* has been ESTABLISHED */
	RECORD_SUBFLOW = 1 << 4,   /* belongs to an MPTCP socket */
	RECORD_UNBORN = 1 << 5,	   /* LISTEN to SYN_RECV is still to be told */
	RECORD_TIME_WAIT = 1 << 6, /* TIME_WAIT has been told */
};

/* The socket's own record, in socket storage: lives and dies with it. */
struct record {
	__u64 cookie;
	__u64 since; /* entry into state; with AT_LEAST the latest possible */
	__u64 earliest;	   /* first possible entry */
	__u64 eof_at;	   /* a recv() returned 0 in CLOSE_WAIT */
	__u64 sent_at_fin; /* bytes written when the peer's FIN came */
	struct flow flow;
	struct task owner;
	struct task eof_task;
	__u8 state;
	__u8 bound;
	__u8 direction;
	__u8 evidence;
	__u8 flags;
	__u8 pad[3];
};

enum row_kind {
	ROW_SOCKET = 1,
	ROW_HOLDER = 2,
};

enum socket_flags {
	SOCKET_BASELINE = 1 << 0,
	SOCKET_WATCHED = 1 << 1,
	SOCKET_SENT = 1 << 2, /* sent_after_fin is valid */
	SOCKET_CONNECTED = 1 << 3,
	SOCKET_KEEPALIVE = 1 << 4,
	SOCKET_ACKED_AFTER_FIN = 1 << 5,
	SOCKET_SUBFLOW = 1 << 6,
	SOCKET_QUEUES = 1 << 7, /* recv_q and send_q are known */
	SOCKET_FIN_RECEIVED = 1 << 8,
};

/* One socket in a snapshot, written by the iterators. */
struct socket_row {
	__u32 kind; /* ROW_SOCKET */
	__u32 flags;
	__u64 at;
	__u64 cookie;
	__u64 inode;
	__u64 cgroup;
	__u64 since;
	__u64 earliest;
	__u64 eof_at;
	__u64 sent_after_fin;
	__u64 last_send;
	__u64 last_ack;
	__u64 parent; /* of a subflow: the cookie of its MPTCP socket */
	struct flow flow;
	struct task owner;
	struct task eof_task;
	__u32 recv_q; /* LISTEN: length of the accept queue */
	__u32 send_q; /* LISTEN: its limit */
	/*
	 * Sequence numbers acknowledged beyond the data bytes acknowledged:
	 * one for our SYN if we connected, one for our FIN.
	 */
	__s32 acked_beyond;
	__u16 protocol;
	__u8 state;
	__u8 bound;
	__u8 direction;
	__u8 evidence;
	__u8 shutdown;
	__u8 pad[5];
};

/* One descriptor of one process that refers to a socket. */
struct holder_row {
	__u32 kind; /* ROW_HOLDER */
	__s32 fd;
	__u64 cookie;
	__u64 inode;
	struct task holder;
	struct flow flow;
	__u32 queue_len;
	__u32 queue_max;
	__u16 protocol;
	__u8 state;
	__u8 pad[5];
};

/* Index of a per-CPU counter. Monotonic; Go subtracts. */
enum counter {
	COUNTER_MADE,	       /* transitions that passed the filter */
	COUNTER_LOST,	       /* of these: the ring was full */
	COUNTER_FILTERED,      /* transitions the filter kept back */
	COUNTER_RECORD_FAILED, /* socket storage could not be created */
	COUNTER_NESTED,	       /* runs that the kernel refused, made up for */
	COUNTER_MAX,
};

/* What the user chose and the kernel can decide. Zero chooses everything. */
struct filter {
	__u32 states; /* bit n: state n */
	__u32 netns;
	__u8 family; /* 4 or 6, on the wire */
	__u8 direction;
	__u8 lports; /* 1: the bitmap lports decides */
	__u8 rports;
	__u8 pids; /* 1: the map pids decides, where the owner is known */
	__u8 pad[3];
};

#pragma clang diagnostic pop

#endif
