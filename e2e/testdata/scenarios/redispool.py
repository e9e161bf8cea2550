"""A pool of idle connections to redis, as clients keep them: redispool.py PORT N."""
import socket
import sys
import time


class Client:
    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.ping()  # before the server finds it idle

    def ping(self):
        self.sock.sendall(b"PING\r\n")
        assert self.sock.recv(64) == b"+PONG\r\n"


pool = [Client(int(sys.argv[1])) for _ in range(int(sys.argv[2]))]
print("idle", flush=True)
time.sleep(1 << 20)
