#!/usr/bin/env python3
"""Does one odd thing with accepted sockets, then stands still: doer.py DEED PORT N.

It prints "ready" when it listens, "go" when the clients may hang up, and "done PID..." when the
deed is done, with the pids that matter to the test."""

import ctypes
import os
import signal
import socket
import struct
import sys
import threading

libc = ctypes.CDLL(None, use_errno=True)
CLONE_FILES = 0x400
TCP_FASTOPEN = 23
SYS_BPF = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
SYS_PIDFD_OPEN, SYS_PIDFD_GETFD = 434, 438


def syscall(*args):
    result = libc.syscall(*(ctypes.c_long(a) if isinstance(a, int) else a for a in args))
    if result < 0:
        raise OSError(ctypes.get_errno(), "system call %d" % args[0])
    return result


def listen(port, reuse=False, fastopen=False):
    s = socket.socket()
    if reuse:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if fastopen:
        s.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN, 64)
    s.bind(("127.0.0.1", port))
    s.listen(128)
    return s


def say(*words):
    print(*words, flush=True)


def accept(port, n, before_go=lambda conns: None, **how):
    s = listen(port, **how)
    say("ready")
    conns = [s.accept()[0] for _ in range(n)]
    before_go(conns)
    say("go")
    return conns


def drain(conns):
    for c in conns:
        while c.recv(4096):
            pass


def rest():
    while True:
        signal.pause()


def dup(port, n):
    conns = accept(port, n)
    copies = [c.dup() for c in conns]
    drain(copies)
    say("done", os.getpid())
    rest()


def fork_both(port, n):
    conns = accept(port, n)
    told = os.pipe()
    child = os.fork()
    if child == 0:
        drain(conns)
        os.write(told[1], b".")
        rest()
    os.read(told[0], 1)
    say("done", child)
    rest()


def fork_serves(port, n):
    """The child serves and closes, the parent forgets its copy."""
    conns = accept(port, n)
    child = os.fork()
    if child == 0:
        for c in conns:
            c.recv(4096)
            c.close()
        os._exit(0)
    os.waitpid(child, 0)
    say("done", os.getpid())
    rest()


def execs(port, n):
    for c in accept(port, n):
        os.set_inheritable(c.detach(), True)
    say("done", os.getpid())
    os.execvp("sleep", ["sleep", "1000"])


def private_table(port, n):
    def run():
        if libc.unshare(CLONE_FILES):
            raise OSError(ctypes.get_errno(), "unshare")
        conns = accept(port, n)
        drain(conns)
        say("done", os.getpid(), threading.get_native_id())
        rest.conns = conns
        threading.Event().wait()

    threading.Thread(target=run).start()
    rest()


def getfd(port, n):
    conns = accept(port, n)
    taken = os.pipe()
    victim, fds = os.getpid(), [c.fileno() for c in conns]
    child = os.fork()
    if child == 0:
        for c in conns:
            c.close()
        pidfd = syscall(SYS_PIDFD_OPEN, victim, 0)
        for fd in fds:
            syscall(SYS_PIDFD_GETFD, pidfd, fd, 0)
        os.write(taken[1], b".")
        rest()
    os.read(taken[0], 1)
    for c in conns:
        c.close()
    say("done", child)
    rest()


def fastopen(port, n):
    conns = accept(port, n, fastopen=True)
    drain(conns)
    say("done", os.getpid())
    rest()


def reuseport(port, n):
    """Five listeners of one port; the last never accepts."""
    pids, ready = [], os.pipe()
    for i in range(5):
        pid = os.fork()
        if pid:
            pids.append(pid)
            continue
        s = listen(port, reuse=True)
        os.write(ready[1], b".")
        if i == 4:
            rest()
        while True:
            c = s.accept()[0]
            drain([c])
            c.close()
    for _ in pids:
        os.read(ready[0], 1)
    say("ready")
    say("go")
    say("done", pids[-1])
    rest()


def migrate(port, n):
    """Two listeners that never accept; the first ends when told, the kernel moves its queue."""
    ready = os.pipe()

    def child():
        pid = os.fork()
        if pid:
            os.read(ready[0], 1)
            return pid
        s = listen(port, reuse=True)
        os.write(ready[1], b".")
        rest.listener = s
        rest()

    first = child()
    say("ready")
    say("go")
    sys.stdin.readline()
    second = child()
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    say("done", second)
    rest()


def sockmap(port, n):
    def bpf(command, attr):
        return syscall(SYS_BPF, command, ctypes.c_char_p(attr), len(attr))

    create = struct.pack("=IIIII", 15, 4, 4, 64, 0) + bytes(100)  # BPF_MAP_TYPE_SOCKMAP
    table = bpf(0, create)

    def put(conns):  # only established connections may go there
        for i, c in enumerate(conns):
            key = ctypes.create_string_buffer(struct.pack("=I", i))
            value = ctypes.create_string_buffer(struct.pack("=I", c.fileno()))
            attr = struct.pack("=IIQQQ", table, 0, ctypes.addressof(key), ctypes.addressof(value), 0) + bytes(96)
            bpf(2, attr)  # BPF_MAP_UPDATE_ELEM

    conns = accept(port, n, before_go=put)
    drain(conns)
    say("done", os.getpid())
    rest()


if __name__ == "__main__":
    globals()[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]))
