"""A process that accepts and one that should serve: the descriptors are handed over in
messages of a unix socket.

    handover.py PORT forgets   the receiver takes them and forgets them
    handover.py PORT deaf      the receiver never receives
"""
import os
import signal
import socket
import sys

ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
worker = os.fork()
if worker == 0:
    ours.close()
    taken = []
    while sys.argv[2] == "deaf":
        signal.pause()
    while True:
        taken += socket.recv_fds(theirs, 1, 1)[1]
theirs.close()
print(f"worker {worker}.", flush=True)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    conn, _ = listener.accept()
    socket.send_fds(ours, [b"x"], [conn.fileno()])
    conn.close()
