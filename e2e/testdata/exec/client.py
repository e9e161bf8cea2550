# client.py PORT N HOW: connects N times in turn and reads each connection to its end.
# HOW, with commas: keep them open; mptcp; fork: a child inherits them and the parent closes
# its own; daemon: in a process that outlives this one, until its input ends; sleep2: for two
# seconds more.
import os, socket, sys, time

port, n, how = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(",")
proto = getattr(socket, "IPPROTO_MPTCP", 262) if "mptcp" in how else 0


def ask():
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, proto)
    s.connect(("127.0.0.1", port))
    if "blind" not in how:
        while s.recv(100):
            pass
    return s


def work():
    kept = [ask() for _ in range(n)] if "keep" in how else [ask().close() for _ in range(n)]
    if "fork" in how:
        child = os.fork()
        if child == 0:
            time.sleep(3)
            os._exit(0)
        for s in kept:
            s.close()
        os.waitpid(child, 0)
    if "sleep2" in how:
        time.sleep(2)
    return kept


if "daemon" in how:
    ready, done = os.pipe()
    between = os.fork()
    if between == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(ready)
            kept = work()
            os.write(done, b"!")
            os.close(done)
            sys.stdin.buffer.read()
        os._exit(0)
    os.close(done)
    os.read(ready, 1)
    # Nobody but the daemon is left behind.
    os.waitpid(between, 0)
else:
    kept = work()
    # Without the interpreter's tidying up, which closes them.
    os._exit(0)
