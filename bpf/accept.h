/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Who accepted: process context, and the return value is the socket. */
#ifndef ACCEPT_H
#define ACCEPT_H

static __always_inline int on_accept(struct sock *sk)
{
	struct record *rec;
	struct young *held;

	if (!sk)
		return 0;
	rec = record_hold(sk, &held);
	if (!rec)
		rec = stored_create(sk);
	if (!rec)
		return 0;
	rec->direction = DIRECTION_IN;
	own(rec, EVIDENCE_ACCEPT);
	if (wants_stack(sk))
		rec->stacks[STACK_OPEN] = take_stack();
	young_let_go(held);
	return 0;
}

static __always_inline struct sock *sock_of_fd(int fd)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct file **table = BPF_CORE_READ(task, files, fdt, fd);
	struct socket *socket;
	struct file *file;

	if (bpf_probe_read_kernel(&file, sizeof(file), table + fd) || !file)
		return NULL;
	socket = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(socket, sk);
}

/*
 * The syscall-exit way: the file cannot be had as a trusted pointer, so the owner
 * waits under the cookie until the state hook or a snapshot meets the socket.
 */
static __always_inline int on_accept_exit(long fd)
{
	struct acceptor by = {};
	struct sock *sk;
	__u64 cookie;

	if (fd < 0)
		return 0;
	sk = sock_of_fd(fd);
	if (!sk || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	if (!cookie)
		return 0;
	fill_task(&by.task, bpf_get_current_task_btf());
	if (!only_closes &&
	    wants_stack_in(BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum)))
		by.stack = take_stack();
	bpf_map_update_elem(&accepted, &cookie, &by, BPF_ANY);
	return 0;
}

#endif
