"""Five workers that accept from one listening socket. Two of them keep connections alive
and never look at them again: prefork.py PORT. A worker answers with its pid."""
import os
import socket
import sys

WORKERS, BAD = 5, (1, 3)


def work(listener, keeps):
    kept = []
    while True:
        conn, _ = listener.accept()
        conn.recv(512)
        conn.sendall(f"{os.getpid()}\n".encode())
        if keeps:
            kept.append(conn)
            continue
        while conn.recv(512):
            pass
        conn.close()


listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128)
for i in range(WORKERS):
    pid = os.fork()
    if pid == 0:
        work(listener, i in BAD)
    print("bad" if i in BAD else "good", f"{pid}.", flush=True)
for _ in range(WORKERS):
    os.wait()
