// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Table of contents: what is hooked, and the handler that does the work. Which of
 * the alternatives is attached is decided by the hook table in internal/tracer.
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
#include "config.h"
#include "maps.h"
#include "ring.h"
#include "young.h"
#include "record.h"
#include "filter.h"
#include "tally.h"
#include "walk.h"
#include "hotspot.h"
#include "python.h"
#include "unwind.h"
#include "family.h"
#include "stack.h"
#include "life.h"
#include "state.h"
#include "timewait.h"
#include "accept.h"
#include "io.h"
#include "passed.h"
#include "queue.h"
#include "snapshot.h"
#include "threads.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* bpf2go makes Go types only of what it meets. */
const struct transition *unused_transition __attribute__((unused));
const struct socket_row *unused_socket_row __attribute__((unused));
const struct socket_more *unused_socket_more __attribute__((unused));
const struct holding_row *unused_holding_row __attribute__((unused));
const struct holder_row *unused_holder_row __attribute__((unused));
const struct listening_row *unused_listening_row __attribute__((unused));
const struct passed_row *unused_passed_row __attribute__((unused));
const struct relative *unused_relative __attribute__((unused));
const struct kin *unused_kin __attribute__((unused));
const struct stack *unused_stack __attribute__((unused));
const struct raw_stack *unused_raw_stack __attribute__((unused));
const struct life *unused_life __attribute__((unused));
const struct mapping_row *unused_mapping_row __attribute__((unused));
const enum unwinding *unused_unwinding __attribute__((unused));
const struct handled *unused_handled __attribute__((unused));
const struct flow *unused_flow __attribute__((unused));
const enum counter *unused_counter __attribute__((unused));
const enum evidence *unused_evidence __attribute__((unused));
const enum bound *unused_bound __attribute__((unused));
const enum direction *unused_direction __attribute__((unused));
const enum tcp_state *unused_tcp_state __attribute__((unused));

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(state, struct sock *sk, int old, int new)
{
	return on_state(sk, old, new);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(state_refused, struct sock *sk, int old, int new)
{
	return on_state_refused(sk, old, new);
}

SEC("fexit/inet_twsk_alloc")
int BPF_PROG(mini_socket, struct sock *sk, void *row, int state,
	     struct inet_timewait_sock *tw)
{
	return on_mini_socket(sk, state, tw);
}

SEC("fentry/tcp_timewait_state_process")
int BPF_PROG(mini_before, struct inet_timewait_sock *tw)
{
	return on_mini_before(tw);
}

SEC("fexit/tcp_timewait_state_process")
int BPF_PROG(mini_after, struct inet_timewait_sock *tw)
{
	return on_mini_after(tw);
}

/* Since 6.10: inet_csk_accept(sk, arg). */
SEC("fexit/inet_csk_accept")
int BPF_PROG(accept_2, struct sock *listener, void *arg, struct sock *sk)
{
	return on_accept(sk);
}

/* Until 6.9: inet_csk_accept(sk, flags, err, kern). */
SEC("fexit/inet_csk_accept")
int BPF_PROG(accept_4, struct sock *listener, int flags, int *err, bool kern,
	     struct sock *sk)
{
	return on_accept(sk);
}

/* What a syscall-exit tracepoint hands over, see its format file. */
struct syscall_exit {
	__u64 common;
	__s64 nr;
	__s64 ret;
};

SEC("tracepoint/syscalls/sys_exit_accept4")
int accept_exit(struct syscall_exit *ctx)
{
	return on_accept_exit(ctx->ret);
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(recv, struct sock *sk, int n, int flags)
{
	return on_recv(sk, n, flags);
}

/* Since 5.19: tcp_recvmsg(sk, msg, len, flags, addr_len). */
SEC("fexit/tcp_recvmsg")
int BPF_PROG(recv_5, struct sock *sk, void *msg, size_t len, int flags,
	     int *addr_len, int n)
{
	return on_recv(sk, n, flags);
}

/* Until 5.18: tcp_recvmsg(sk, msg, len, nonblock, flags, addr_len). */
SEC("fexit/tcp_recvmsg")
int BPF_PROG(recv_6, struct sock *sk, void *msg, size_t len, int nonblock,
	     int flags, int *addr_len, int n)
{
	return on_recv(sk, n, flags);
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(send_length, struct sock *sk, int n, int flags)
{
	return on_send(sk, n);
}

SEC("fexit/tcp_sendmsg")
int BPF_PROG(send_3, struct sock *sk, void *msg, size_t size, int n)
{
	return on_send(sk, n);
}

/* A context field is checked once, so it is read once. */
SEC("iter/tcp")
int dump_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;

	return skc ? on_tcp_row(ctx->meta->seq, skc) : 0;
}

SEC("iter/task_file")
int dump_files(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;

	return file ? on_file_row(ctx->meta->seq, ctx->task, ctx->fd, file) : 0;
}

/* Sleepable: memory that is not resident is waited for. */
SEC("iter.s/task")
int dump_threads(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;

	return task ? on_thread(ctx->meta->seq, task) : 0;
}

SEC("iter/task_vma")
int dump_mappings(struct bpf_iter__task_vma *ctx)
{
	struct vm_area_struct *vma = ctx->vma;
	struct task_struct *task = ctx->task;

	return task && vma ? on_mapping(ctx->meta->seq, task, vma) : 0;
}

/* The tasks that make up a family when the watching begins. */
SEC("iter/task")
int dump_family(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;

	return task ? on_relative(task) : 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_fork, struct task_struct *parent,
	     struct task_struct *child)
{
	return on_fork(parent, child);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task, int old_pid,
	     struct linux_binprm *bprm)
{
	return on_exec(task, bprm);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exit, struct task_struct *task)
{
	return on_exit(task);
}

/* Both clocks in one moment: ticks per second follow from it. */
SEC("syscall")
int read_clocks(void *ctx)
{
	clock_ktime = bpf_ktime_get_ns();
	clock_jiffies = bpf_jiffies64();
	return 0;
}
