"""A server that reads to the end and forgets the socket, as a list of sessions does that
nobody clears: forgetful.py PORT."""
import socket
import sys

sessions = []


def handle_session(conn):
    while conn.recv(512):
        conn.sendall(b"ok\n")
    sessions.append(conn)


listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    handle_session(listener.accept()[0])
