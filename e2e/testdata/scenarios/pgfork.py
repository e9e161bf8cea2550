"""A program that starts a daemon by fork() while it has N connections to PostgreSQL, and
closes one of them for each line of its input: pgfork.py PORT N. Python's fork, libpq's
connections."""
import ctypes
import os
import signal
import sys

pq = ctypes.CDLL("libpq.so.5")
pq.PQconnectdb.restype = ctypes.c_void_p
for f in (pq.PQstatus, pq.PQfinish, pq.PQerrorMessage):
    f.argtypes = [ctypes.c_void_p]
pq.PQerrorMessage.restype = ctypes.c_char_p


def connect(port):
    conn = pq.PQconnectdb(f"host=127.0.0.1 port={port} user=postgres dbname=postgres sslmode=disable".encode())
    if pq.PQstatus(conn) != 0:
        sys.exit(pq.PQerrorMessage(conn))
    return conn


conns = []
for line in sys.stdin:
    if line == "connect\n":
        conns = [connect(sys.argv[1]) for _ in range(int(sys.argv[2]))]
        child = os.fork()
        if child == 0:
            while True:
                signal.pause()
        print(f"daemon {child}.", flush=True)
    else:
        pq.PQfinish(conns.pop())
