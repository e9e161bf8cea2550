// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Floors for make bench: the least that a program at the same hook must cost. They know
 * nothing of owners, filters or lost events, and are never part of tcpwaitd.
 */
#include <linux/types.h>
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

#include "events.h"
#include "kernel.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* One record of each kind is 64 bytes, the size that the targets are about. */
struct floor_event {
	__u64 at; /* ktime, ns */
	__u64 sk;
	__u8 laddr[16];
	__u8 raddr[16];
	__u32 tgid;
	__u16 lport;
	__u16 rport;
	__u8 old_state;
	__u8 new_state;
	__u8 pad[6];
};

struct floor_row {
	__u64 sk;
	__u64 inode;
	__u8 comm[COMM_LEN]; /* of a holder */
	__u32 laddr;
	__u32 raddr;
	__u32 kind; /* 1: socket, 2: holder */
	__u32 tgid;
	__u32 fd;
	__u16 lport;
	__u16 rport;
	__u64 pad;
};

const struct floor_event *unused_event __attribute__((unused));
const struct floor_row *unused_row __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} floor_ring SEC(".maps");

/* Bytes waiting in the ring above which the reader is woken. */
const volatile __u64 floor_wake_bytes;

/* Read by Go at the end. */
__u64 floor_lost;

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(floor_empty, struct sock *sk, int old, int new)
{
	return 0;
}

/* As much as a tool must keep of a socket to know its owner and times. */
struct floor_storage {
	__u64 since;
	__u64 rest[22];
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct floor_storage);
} floor_records SEC(".maps");

/* Where a tool that knows how long a socket was in its state must begin. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(floor_keep, struct sock *sk, int old, int new)
{
	struct floor_storage *kept;

	kept = bpf_sk_storage_get(
	    &floor_records, sk, 0,
	    new == TCP_CLOSE ? 0 : BPF_SK_STORAGE_GET_F_CREATE);
	if (kept)
		kept->since = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(floor_record, struct sock *sk, int old, int new)
{
	struct floor_event *e;

	e = bpf_ringbuf_reserve(&floor_ring, sizeof(*e), 0);
	if (!e) {
		__sync_fetch_and_add(&floor_lost, 1);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->at = bpf_ktime_get_ns();
	e->sk = (__u64)sk;
	*(__u32 *)e->laddr = sk->__sk_common.skc_rcv_saddr;
	*(__u32 *)e->raddr = sk->__sk_common.skc_daddr;
	e->tgid = bpf_get_current_pid_tgid() >> 32;
	e->lport = sk->__sk_common.skc_num;
	e->rport = bpf_ntohs(sk->__sk_common.skc_dport);
	e->old_state = old;
	e->new_state = new;
	bpf_ringbuf_submit(e,
			   bpf_ringbuf_query(&floor_ring, BPF_RB_AVAIL_DATA) >
				   floor_wake_bytes
			       ? BPF_RB_FORCE_WAKEUP
			       : BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(floor_recv, struct sock *sk, int n, int flags)
{
	return 0;
}

SEC("iter/tcp")
int floor_sockets(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;
	struct floor_row row = {.kind = 1};
	struct tcp_sock *tp;

	if (!skc || skc->skc_state != TCP_CLOSE_WAIT)
		return 0;
	tp = bpf_skc_to_tcp_sock(skc);
	if (!tp)
		return 0;
	row.sk = (__u64)tp;
	row.inode = inode_of((struct sock *)tp);
	row.laddr = skc->skc_rcv_saddr;
	row.raddr = skc->skc_daddr;
	row.lport = skc->skc_num;
	row.rport = bpf_ntohs(skc->skc_dport);
	bpf_seq_write(ctx->meta->seq, &row, sizeof(row));
	return 0;
}

SEC("iter/task_file")
int floor_holders(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct floor_row row = {.kind = 2};
	struct file *file = ctx->file;
	struct socket *socket;
	struct sock *sk;

	if (!file || !task)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || sk->sk_protocol != IPPROTO_TCP ||
	    sk->__sk_common.skc_state != TCP_CLOSE_WAIT)
		return 0;
	row.sk = (__u64)sk;
	row.inode = inode_of(sk);
	row.tgid = task->tgid;
	row.fd = ctx->fd;
	BPF_CORE_READ_STR_INTO(&row.comm, task, comm);
	bpf_seq_write(ctx->meta->seq, &row, sizeof(row));
	return 0;
}
