"""A server that streams to its clients until SIGUSR1: then its source has dried up, and it
waits for more. stream.py PORT. It is told when a client has shut down its side, which is
no reason to stop."""
import selectors
import signal
import socket
import sys

flowing = True


def dry(*_):
    global flowing
    flowing = False


signal.signal(signal.SIGUSR1, dry)
loop, streams = selectors.DefaultSelector(), []
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128)
loop.register(listener, selectors.EVENT_READ)
while True:
    for key, _ in loop.select(0.05):
        if key.fileobj is listener:
            conn, _ = listener.accept()
            streams.append(conn)
            loop.register(conn, selectors.EVENT_READ)
        elif not key.fileobj.recv(512):
            loop.unregister(key.fileobj)
    for conn in streams if flowing else ():
        conn.sendall(b"tick\n")
