"""An echo server for one connection at a time: server.py PORT."""
import socket
import sys


def read_req(conn):
    return conn.recv(512)


def handle(conn):
    while read_req(conn):
        conn.sendall(b"ok\n")
    conn.close()


def accept_one(listener):
    return listener.accept()


def serve(listener):
    while True:
        conn, _ = accept_one(listener)
        handle(conn)


serve(socket.create_server(("127.0.0.1", int(sys.argv[1]))))
