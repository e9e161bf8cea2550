"""Reads each connection to its end, then shuts it down in the place of closing it."""

import socket
import sys

forgotten = []
with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=256) as listener:
    while True:
        conn, _ = listener.accept()
        while conn.recv(64):
            pass
        conn.shutdown(socket.SHUT_RDWR)
        forgotten.append(conn)
