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

/* A thread that did something with a socket; its name is known elsewhere. */
struct actor {
	__u64 start; /* as in struct task */
	__u32 tgid;
	__u32 tid;
};

struct flow {
	__u8 laddr[16]; /* IPv4 as ::ffff:a.b.c.d */
	__u8 raddr[16];
	__u32 netns;
	__u16 lport; /* host order */
	__u16 rport;
};

/* What a record in the ring buffer is: its first byte. */
enum ring_kind {
	RING_TRANSITION = 1,
	RING_STACK = 2,
	RING_RAW_STACK = 3,
	RING_EXEC = 4,
	RING_EXIT = 5,
};

/* When in the life of a socket a stack is taken; order as in internal/event. */
enum stack_slot {
	STACK_OPEN,
	STACK_LAST_READ,
	STACK_EOF,
	STACK_CLOSE,
	STACK_SLOTS,
};

enum transition_flags {
	TRANSITION_INFERRED = 1 << 0, /* follows from others, not reported */
	TRANSITION_SUBFLOW = 1 << 1, /* of an MPTCP socket, which has its own */
	TRANSITION_EXITING = 1 << 2, /* the closer's process is ending */
	/* Out of CLOSE_WAIT: */
	TRANSITION_EOF_SEEN = 1 << 3,
	TRANSITION_WATCHED = 1 << 4,
	TRANSITION_SENT = 1 << 5,  /* sent_after_fin is valid */
	TRANSITION_MPTCP = 1 << 6, /* else TCP */
	/* Another transition came just before, and is told by this record: */
	TRANSITION_BORN = 1 << 7, /* LISTEN to SYN_RECV, in_state earlier */
	TRANSITION_TIME_WAIT = 1 << 8, /* into TIME_WAIT, inferred */
	TRANSITION_TWO = TRANSITION_BORN | TRANSITION_TIME_WAIT,
	/* How long the record is: */
	TRANSITION_MORE = 1 << 9,
	TRANSITION_WIDE = 1 << 10, /* IPv6, or with stacks */
	/* Out of SYN_SENT: */
	TRANSITION_NO_PORT = 1 << 11, /* connect() fails with EADDRNOTAVAIL */
};

/*
 * One state change, in the ring buffer. Most end after owner_tid: writing to the ring costs
 * by the cache line.
 */
struct transition {
	__u8 kind; /* RING_TRANSITION */
	__u8 old_state;
	__u8 new_state;
	__u8 bound;
	__u8 direction;
	__u8 evidence;
	__u16 flags;
	__u64 at; /* bpf_ktime_get_ns */
	__u64 cookie;
	__u64 in_state; /* ns in the old state; see bound */
	__u64 cgroup;
	__u32 netns;
	__u16 lport; /* host order */
	__u16 rport;
	__u8 laddr4[4]; /* unless TRANSITION_WIDE */
	__u8 raddr4[4];
	__u64 owner_start; /* as in struct task */
	__u32 owner_tgid;
	__u32 owner_tid;
	/* With TRANSITION_MORE: */
	char owner_comm[COMM_LEN]; /* told once for each owner */
	__u32 user;		   /* tgid that read or wrote last */
	__u32 closer; /* tgid that called close() or shutdown() last */
	__u32 recv_q; /* out of CLOSE_WAIT */
	__u32
	    sent_after_fin; /* out of CLOSE_WAIT; more than fits is all ones */
	/* With TRANSITION_WIDE, which has more as well: */
	__u8 laddr[16]; /* as in struct flow */
	__u8 raddr[16];
	__u64 stacks[STACK_SLOTS];
};

enum record_flags {
	RECORD_BASELINE = 1 << 0,  /* the socket was there before us */
	RECORD_WATCHED = 1 << 1,   /* reads watched since before CLOSE_WAIT */
	RECORD_SENT = 1 << 2,	   /* sent_at_fin is valid */
	RECORD_CONNECTED = 1 << 3, /* has been ESTABLISHED */
	RECORD_SUBFLOW = 1 << 4,   /* belongs to an MPTCP socket */
	RECORD_UNBORN = 1 << 5,	   /* LISTEN to SYN_RECV is still to be told */
	RECORD_TIME_WAIT = 1 << 6, /* TIME_WAIT has been told */
	RECORD_TOOK_FIN = 1 << 7, /* a recv() took the FIN with the last data */
};

/*
 * The socket's own record, in socket storage: lives and dies with it. With 184 bytes it
 * fits, with what the kernel adds, into an allocation of 256.
 */
struct record {
	__u64 cookie;
	__u64 since; /* entry into state; with AT_LEAST the latest possible */
	__u64 earliest;	   /* first possible entry */
	__u64 eof_at;	   /* a recv() returned 0 in CLOSE_WAIT */
	__u64 sent_at_fin; /* bytes written when the peer's FIN came */
	__u64 stacks[STACK_SLOTS];
	struct flow flow;
	struct task owner;
	struct actor eof_task;
	/* Read or wrote last; kept where users or stacks are: */
	__u64 user_start;
	__u32 user;
	__u32 closer; /* tgid that made it FIN_WAIT1 */
	__u8 state;
	__u8 bound;
	__u8 direction;
	__u8 evidence;
	__u8 user_evidence;
	__u8 flags;
	__u8 named; /* a transition has told the owner's name */
	__u8 pad;
};

enum row_kind {
	ROW_SOCKET = 1,
	ROW_HOLDER = 2,
	ROW_PASSED = 3,
	ROW_HOLDING = 4,
	ROW_LISTENING = 5,
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
	SOCKET_SEQ = 1 << 9,	 /* snd_nxt and rcv_nxt are known */
	SOCKET_KERNEL = 1 << 10, /* the kernel's own: it has no file */
	SOCKET_PORT = 1 << 11,	 /* how the local port was taken is known: */
	SOCKET_PORT_BOUND = 1 << 12, /* by bind() or listen() */
	SOCKET_STAMPED = 1 << 13,    /* mini-socket: had TCP timestamps */
	SOCKET_MORE = 1 << 14,	     /* a struct socket_more follows */
};

/* What most sockets of a single look do not have. */
struct socket_more {
	__u64 eof_at;
	__u64 sent_after_fin;
	__u64 parent;	/* of a subflow: the cookie of its MPTCP socket */
	__u64 listener; /* in whose accept queue it is; see struct queued */
	__u64 ends;	/* mini-socket: when the kernel removes it */
	__u64 stacks[STACK_SLOTS];
	struct task owner;
	struct actor eof_task;
	__u64 user_start;
	__u32 user;
	__u32 pad;
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
	__u64 last_send;
	__u64 last_ack;
	struct flow flow;
	__u32 snd_nxt;
	__u32 rcv_nxt;
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
	__u8 user_evidence;
	__u32 more; /* for Go: where it keeps what follows */
};

/* The task that the next ROW_HOLDER and ROW_LISTENING are of. */
struct holding_row {
	__u32 kind; /* ROW_HOLDING */
	__u32 pad;
	struct task task;
};

/* One descriptor of one process that refers to a socket. */
struct holder_row {
	__u32 kind; /* ROW_HOLDER */
	__s32 fd;
	__u64 cookie;
	__u32 netns;
	__u8 state;
	__u8 owns; /* 1: the task is the socket's owner, by a scan */
	__u8 pad[2];
};

/* The same of a listening socket. */
struct listening_row {
	__u32 kind; /* ROW_LISTENING */
	__s32 fd;
	__u64 cookie;
	__u64 inode;
	struct flow flow;
	__u32 queue_len;
	__u32 queue_max;
	__u16 protocol;
	__u8 pad[6];
};

enum passed_flags {
	PASSED_CUT = 1 << 0, /* there is more; without inode: nothing else */
};

/* One reference to a socket, in a unix-socket message that waits to be received. */
struct passed_row {
	__u32 kind; /* ROW_PASSED */
	__s32 fd;   /* the receiver's, of the unix socket */
	__u64 cookie;
	__u64 inode;
	__u64 slot; /* where the reference is, in the kernel: tells two apart */
	struct task receiver;
	__u32 sender; /* tgid */
	__u32 flags;
};

/* A process among those Config.Family follows. */
struct relative {
	__u64 start; /* as in struct task */
	__u32 tgid;
	__u32 pad;
};

/* What is known of it. */
struct kin {
	__u64 ended; /* bpf_ktime_get_ns; 0: it runs */
	char comm[COMM_LEN];
};

/* Index of a per-CPU counter. Monotonic; Go subtracts. */
enum counter {
	COUNTER_MADE,		/* transitions that passed the filter */
	COUNTER_LOST,		/* of these: the ring was full */
	COUNTER_FILTERED,	/* transitions the filter kept back */
	COUNTER_RECORD_FAILED,	/* socket storage could not be created */
	COUNTER_NESTED,		/* runs that the kernel refused, made up for */
	COUNTER_STACKS,		/* stacks taken */
	COUNTER_STACKS_LIMITED, /* stacks not taken: the process had its share */
	COUNTER_STACKS_BUSY, /* stacks not taken: another one was, on this CPU */
	COUNTER_STACKS_LOST,	/* taken, but the ring was full */
	COUNTER_RELATIVES_LOST, /* no room for a process of the family */
	COUNTER_MAX,
};

/* What the address in a frame means; order as in internal/event. */
enum frame_kind {
	FRAME_NONE,
	FRAME_FILE,
	FRAME_ANON,
	FRAME_PYTHON,
	FRAME_INTERPRETED,
	FRAME_COMPILED,
	FRAME_UNMAPPED,
};

/* How far a stack can be believed, worse ones are larger. */
enum quality {
	QUALITY_NONE,
	QUALITY_COMPLETE,
	QUALITY_TRUNCATED,
	QUALITY_GUESSED,
	QUALITY_FP_ONLY,
};

/* Why a walk ended early; order as in internal/event. */
enum unwind_reason {
	REASON_NONE,
	REASON_NO_TABLE,
	REASON_NO_RULE,
	REASON_UNREADABLE,
	REASON_TOO_DEEP,
	REASON_MAP_BUSY,
	REASON_UNMAPPED,
	REASON_BAD_FRAME,
	REASON_NEW_RUNTIME,
	REASON_THAWED,
	REASON_NO_UNWINDER,
};

/*
 * where: kind in the top 4 bits, then one bit "return address" (of a Python frame: C
 * called it). FRAME_FILE: 19 bits number of the file, 40 bits offset in it. Others: an
 * address.
 */
struct frame {
	__u64 where;
	__u64 aux;
};

#define FRAME_KIND_SHIFT   60
#define FRAME_RETURN	   (1ULL << 59)
#define FRAME_OBJECT_SHIFT 40
#define MAX_FRAMES	   127

/* The content of a file: inode numbers are used again, files overwritten. */
struct file_key {
	__u64 ino;
	__u64 ctime; /* ns */
	__u32 dev;
	__u32 pad;
};

/* One executable mapping. */
struct mapping {
	__u64 start;
	__u64 end;
	__u64 offset;	     /* file offset of start */
	struct file_key key; /* zero: no file */
};

enum stack_flags {
	STACK_NEW_PROCESS = 1 << 0, /* its runtime is not known to us */
};

/* A stack, in the ring buffer, once for each id; cut after the last frame. */
struct stack {
	__u32 kind; /* RING_STACK */
	__u32 n;
	__u64 at;
	__u64 id;
	struct mapping missing; /* code without a table, with REASON_NO_TABLE */
	struct task task;
	__u8 quality;
	__u8 reason;
	__u8 flags;
	__u8 pad[5];
	struct frame frames[MAX_FRAMES + 1];
};

/* Registers a rule can start from; numbers as in the tables. */
enum reg {
	REG_NONE,
	REG_CFA,
	REG_PC,
	REG_SP,
	REG_FP,
	REG_LR,
	REG_RAX,
	REG_RDI,
	REG_R8,
	REG_R9,
	REG_R11,
	REG_R13,
	REG_R15,
	REG_MAX = 16,
};

#define RAW_BYTES 32768

/* A thread's registers and the innermost part of its stack, to be unwound in Go. */
struct raw_stack {
	__u32 kind; /* RING_RAW_STACK */
	__u32 len;  /* bytes of memory[], from REG_SP on */
	__u64 at;
	__u64 id;
	__u64 thread_pointer; /* of a thread that stands; x86 */
	struct mapping missing;
	struct task task;
	__u8 reason; /* why the walk in the kernel was not enough */
	__u8 flags;
	__u8 pad[6];
	__u64 regs[REG_MAX];
	__u8 memory[RAW_BYTES];
};

#define PROGRAM_PATH 256

/*
 * A process that had sockets, or whose parent had, runs another program, or is gone; or
 * one runs a program that could not be read when it was wanted.
 */
struct life {
	__u32 kind; /* RING_EXEC, RING_EXIT */
	__u32 tgid;
	struct file_key program; /* zero, except where it was wanted */
	/* As exec() was given it, perhaps cut. With program only; else the record ends before. */
	__u8 path[PROGRAM_PATH];
};

/* One rule of an unwind table. */
struct rule {
	__u8 flags;
	__u8 base;
	__u8 aux;
	__u8 pad;
	__s32 param;
	__s32 aux_param;
};

struct code_heap {
	__u64 low;
	__u64 high;
	__u64 segmap;
};

#define MAX_CODE_HEAPS 4

/* Where a language runtime of one process keeps its frames: see internal/event. */
struct runtime {
	__u64 python; /* address of _PyRuntime; 0: no Python */
	struct code_heap heaps[MAX_CODE_HEAPS];
	__u64 interpreter_low;
	__u64 interpreter_high;
	__u32 interpreters_head;
	__u32 threads_head;
	__u32 thread_next;
	__u32 thread_id;
	__u32 cframe;
	__u32 current_frame;
	__u32 frame_previous;
	__u32 frame_code;
	__u32 frame_instruction;
	__u32 frame_entry;
	__u32 segment_log2;
	__u32 block_header;
	__u32 blob_frame_size;
	__u8 entry_mask;
	__u8 entry_value;
	__u8 no_cframe;
	__u8 hotspot;
	__u8 v8;
	__u8 trampoline;
	__u8 go;
	__u8 pad[5];
};

/* One row of the table iterator: an executable mapping of a process. */
struct mapping_row {
	struct mapping mapping;
	__u32 tgid;
	__u32 pad;
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
