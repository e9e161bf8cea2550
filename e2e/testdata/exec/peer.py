# A server that ends every connection at once; it prints its port. It ends with its input.
import os, socket, sys, threading

proto = getattr(socket, "IPPROTO_MPTCP", 262) if "mptcp" in sys.argv else 0
server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, proto)
server.bind(("127.0.0.1", 0))
server.listen(64)
print(server.getsockname()[1], flush=True)


def end():
    sys.stdin.buffer.read()
    os._exit(0)


threading.Thread(target=end, daemon=True).start()
while True:
    server.accept()[0].close()
