/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Mirrors of just the kernel fields used; CO-RE finds their real offsets in the
 * running kernel's BTF. One accessor per fact that differs between kernels.
 */
#ifndef KERNEL_H
#define KERNEL_H

#define AF_UNIX	      1
#define AF_INET	      2
#define AF_INET6      10
#define IPPROTO_TCP   6
#define IPPROTO_MPTCP 262
#define MSG_PEEK      2
#define MAX_U32	      0xffffffffU
#define PF_KTHREAD    0x00200000
#define PF_EXITING    0x00000004
#define PF_IO_WORKER  0x00000010
#define VM_EXEC	      0x00000004
#define EBUSY	      16
#define SHUTDOWN_MASK 3 /* of sk_shutdown: both ways */

/*
 * The verifier goes through all steps of a loop, and gives up after a thousand. Long loops
 * are several of so many steps, each in a global function: it looks at those once.
 */
#define LOOP_STEPS 64

enum tcp_state {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT,
	TCP_SYN_RECV,
	TCP_FIN_WAIT1,
	TCP_FIN_WAIT2,
	TCP_TIME_WAIT,
	TCP_CLOSE,
	TCP_CLOSE_WAIT,
	TCP_LAST_ACK,
	TCP_LISTEN,
	TCP_CLOSING,
	TCP_NEW_SYN_RECV,
	TCP_BOUND_INACTIVE,
};

#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wpadded"
#pragma clang attribute push(__attribute__((preserve_access_index)),           \
			     apply_to = record)

/* include/net/sock.h: bit numbers of skc_flags */
enum sock_flags {
	SOCK_DEAD = 0,
	SOCK_DONE = 1,
	SOCK_KEEPOPEN = 3,
	SOCK_LINGER = 4,
};

struct in6_addr {
	union {
		__u8 u6_addr8[16];
	} in6_u;
};

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

typedef struct {
	__s64 counter;
} atomic64_t;

typedef struct {
	int counter;
} atomic_t;

struct sock_common {
	union {
		struct {
			__be32 skc_daddr;
			__be32 skc_rcv_saddr;
		};
	};
	union {
		struct {
			__be16 skc_dport;
			__u16 skc_num;
		};
	};
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
	union {
		unsigned long skc_flags;
	};
	__u32 skc_tw_rcv_nxt; /* of a mini-socket in TIME_WAIT or FIN_WAIT2 */
	__u32 skc_tw_snd_nxt;
};

struct kernfs_node {
	__u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

struct super_block {
	__u32 s_dev;
};

struct inode {
	unsigned long i_ino;
	struct super_block *i_sb;
	__s64 i_ctime_sec; /* since 6.11 */
	__u32 i_ctime_nsec;
};

struct timespec64 {
	__s64 tv_sec;
	long tv_nsec;
};

struct inode___until_6_10 {
	struct timespec64 __i_ctime;
};

struct inode___until_6_5 {
	struct timespec64 i_ctime;
};

struct file {
	struct inode *f_inode;
	void *private_data;
};

struct sock;

struct socket {
	struct file *file;
	struct sock *sk;
};

struct socket_alloc {
	struct socket socket;
	struct inode vfs_inode;
};

struct sk_buff {
	struct sk_buff *next;
	struct sock *sk;
	char cb[48];
};

struct sk_buff_head {
	struct sk_buff *next;
	__u32 qlen;
};

struct sock {
	struct sock_common __sk_common;
	struct sk_buff_head sk_receive_queue;
	struct {
		atomic_t rmem_alloc;
	} sk_backlog;
	struct socket *sk_socket;
	__u16 sk_protocol;
	__u8 sk_shutdown;
	int sk_err;
	unsigned long sk_lingertime;
	__u32 sk_ack_backlog;
	__u32 sk_max_ack_backlog;
	struct sock_cgroup_data sk_cgrp_data;
};

struct inet_sock {
	struct sock sk;
	__be16 inet_sport;
};

/* What sockets with the same local port share. */
struct inet_bind_bucket {
	signed char fastreuse;
	signed char fastreuseport;
};

struct request_sock_queue {
	struct request_sock *rskq_accept_head;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	struct request_sock_queue icsk_accept_queue;
	struct inet_bind_bucket *icsk_bind_hash;
	void *icsk_ulp_data;
	struct {
		__u32 lrcvtime;
	} icsk_ack;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u32 copied_seq;
	__u32 snd_wl1;
	__u32 write_seq;
	__u32 lsndtime;
	__u32 rcv_nxt;
	__u32 snd_nxt;
	__u32 snd_una;
	__u32 rcv_tstamp;
	__u64 bytes_sent;
	__u64 bytes_received;
	__u64 bytes_acked;
	__u64 bytes_retrans;
	int linger2;
	bool is_mptcp;
};

struct timer_list {
	unsigned long expires; /* ticks */
};

struct inet_timewait_sock {
	struct sock_common __tw_common;
	volatile unsigned char tw_substate;
	__be16 tw_sport;
	struct timer_list tw_timer;
	struct inet_bind_bucket *tw_tb;
};

struct tcp_timewait_sock {
	struct inet_timewait_sock tw_sk;
	int tw_ts_recent_stamp; /* 0: no timestamps */
};

struct request_sock {
	struct sock_common __req_common;
	struct request_sock *dl_next; /* in an accept queue */
	struct sock *sk;	      /* the child */
};

struct inet_request_sock {
	struct request_sock req;
};

struct tcp_request_sock {
	struct inet_request_sock req;
};

struct mptcp_sock {
	__u64 bytes_received;
	__u64 bytes_consumed;
};

struct mptcp_subflow_context {
	struct sock *conn;
};

struct upid {
	int nr;
};

struct pid {
	struct upid numbers[1];
};

struct scm_fp_list {
	short count;
	struct file *fp[1];
};

/* What a unix socket keeps in sk_buff.cb. */
struct unix_skb_parms {
	struct pid *pid;
	struct scm_fp_list *fp;
};

struct mm_struct {
	struct file *exe_file;
};

struct linux_binprm {
	const char *filename;
};

struct vm_area_struct {
	unsigned long vm_start;
	unsigned long vm_end;
	unsigned long vm_flags;
	unsigned long vm_pgoff;
	struct file *vm_file;
};

/* User registers, by architecture. */
struct pt_regs___x86 {
	unsigned long r15;
	unsigned long r13;
	unsigned long bp;
	unsigned long r11;
	unsigned long r9;
	unsigned long r8;
	unsigned long ax;
	unsigned long di;
	unsigned long ip;
	unsigned long cs;
	unsigned long sp;
};

struct pt_regs___arm64 {
	__u64 regs[31];
	__u64 sp;
	__u64 pc;
	__u64 pstate;
};

struct thread_struct {
	unsigned long fsbase; /* x86 */
};

struct signal_struct {
	atomic_t live; /* threads */
};

struct task_struct {
	unsigned int flags;
	int pid;
	int tgid;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	struct signal_struct *signal;
	struct mm_struct *mm;
	struct thread_struct thread;
	__u64 start_boottime;
	char comm[COMM_LEN];
	struct files_struct *files;
};

struct fdtable {
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

struct bpf_iter__task_vma {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	struct vm_area_struct *vma;
};

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};

#pragma clang attribute pop
#pragma clang diagnostic pop

/*
 * The cgroup v2 of a socket. Before 5.15 the field was a tagged union without
 * this member.
 */
static __always_inline __u64 cgroup_of(struct sock *sk)
{
	if (!bpf_core_field_exists(sk->sk_cgrp_data.cgroup))
		return 0;
	return sk->sk_cgrp_data.cgroup->kn->id;
}

static __always_inline __u32 netns_of(struct sock_common *skc)
{
	return skc->skc_net.net->ns.inum;
}

/* The number ss shows; 0 while nobody has accepted the socket. */
static __always_inline __u64 inode_of(struct sock *sk)
{
	struct socket_alloc *alloc = (struct socket_alloc *)sk->sk_socket;

	if (!alloc)
		return 0;
	return BPF_CORE_READ(alloc, vfs_inode.i_ino);
}

/*
 * What a program opens has a file before it is connected, and until nobody refers to it. The
 * kernel makes sockets for itself without one.
 */
static __always_inline bool is_kernels(struct sock *sk)
{
	struct socket *socket = sk->sk_socket;

	return socket && !socket->file;
}

#define USER32_CS      0x23 /* x86: the code segment of 32-bit programs */
#define PSR_MODE32_BIT 0x10 /* arm64 */

/* Registers of a program for the 32-bit kin of this machine. */
static __always_inline bool is_32bit(struct pt_regs *regs)
{
	struct pt_regs___arm64 *arm = (void *)regs;
	struct pt_regs___x86 *x86 = (void *)regs;
	__u64 cs = 0;

	if (!bpf_core_field_exists(x86->cs))
		return BPF_CORE_READ(arm, pstate) & PSR_MODE32_BIT;
	bpf_core_read(&cs, bpf_core_field_size(x86->cs), &x86->cs);
	return cs == USER32_CS;
}

static __always_inline bool on_x86(void)
{
	struct pt_regs___x86 *x86 = NULL;

	return bpf_core_field_exists(x86->ip);
}

/* Go on arm64 keeps the frame pointer in the word below the stack pointer. */
static __always_inline __u64 below_sp(void)
{
	return on_x86() ? 0 : 8;
}

/* What pthread_self() gives, on x86. */
static __always_inline __u64 thread_pointer(struct task_struct *task)
{
	return bpf_core_field_exists(task->thread.fsbase) ? task->thread.fsbase
							  : 0;
}

/* Kernels name the change time of a file in three ways. */
static __always_inline __u64 ctime_of(struct inode *inode)
{
	struct inode___until_6_10 *middle = (void *)inode;
	struct inode___until_6_5 *old = (void *)inode;

	/* Since 6.13 the top bit says that somebody has asked for the time. */
	if (bpf_core_field_exists(inode->i_ctime_sec))
		return BPF_CORE_READ(inode, i_ctime_sec) * 1000000000ULL +
		       (BPF_CORE_READ(inode, i_ctime_nsec) & ~(1U << 31));
	if (bpf_core_field_exists(middle->__i_ctime))
		return BPF_CORE_READ(middle, __i_ctime.tv_sec) * 1000000000ULL +
		       BPF_CORE_READ(middle, __i_ctime.tv_nsec);
	return BPF_CORE_READ(old, i_ctime.tv_sec) * 1000000000ULL +
	       BPF_CORE_READ(old, i_ctime.tv_nsec);
}

static __always_inline void fill_key(struct file_key *key, struct file *file)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode);

	key->ino = BPF_CORE_READ(inode, i_ino);
	key->ctime = ctime_of(inode);
	key->dev = BPF_CORE_READ(inode, i_sb, s_dev);
}

#define sock_flag(sk, flag)                                                    \
	((sk)->__sk_common.skc_flags &                                         \
	 (1UL << bpf_core_enum_value(enum sock_flags, flag)))

/* The same for a socket that was reached by reading memory. */
static __always_inline __u64 inode_of_untrusted(struct sock *sk)
{
	struct socket_alloc *alloc = (void *)BPF_CORE_READ(sk, sk_socket);

	return alloc ? BPF_CORE_READ(alloc, vfs_inode.i_ino) : 0;
}

static __always_inline bool is_tcp_kind(__u16 family, __u16 protocol)
{
	return (family == AF_INET || family == AF_INET6) &&
	       (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP);
}

static __always_inline bool is_tcp(struct sock *sk)
{
	return is_tcp_kind(sk->__sk_common.skc_family, sk->sk_protocol);
}

static __always_inline bool is_subflow(struct tcp_sock *tp)
{
	return bpf_core_field_exists(tp->is_mptcp) && tp->is_mptcp;
}

/*
 * Unread bytes of an MPTCP socket. Before 6.11 nobody counts what was consumed; the
 * memory of the queue then says whether there is anything.
 */
static __always_inline __u32 unread_mptcp(struct sock *sk)
{
	struct mptcp_sock *msk = (struct mptcp_sock *)sk;

	if (bpf_core_field_exists(msk->bytes_consumed))
		return BPF_CORE_READ(msk, bytes_received) -
		       BPF_CORE_READ(msk, bytes_consumed);
	return sk->sk_backlog.rmem_alloc.counter;
}

#endif
