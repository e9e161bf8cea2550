# tidies.py N HOW: accepts N connections, one after the other, whose clients leave. HOW:
# leak: is told of each end and keeps the sockets: the interpreter closes them when it finalizes.
# close: closes each when it is told. late: closes all of them at the end of the program.
# atexit: the same, in a handler. del: __del__ does, when the interpreter finalizes.
# pool: is not told, and closes them at the end. idle: as pool, but never closes.
import atexit, socket, sys, time

n, how = int(sys.argv[1]), sys.argv[2]
listener = socket.create_server(("127.0.0.1", 0))
kept = []


class Owner:
    def __init__(self, s):
        self.s = s

    def __del__(self):
        self.s.close()


def serve():
    client = socket.create_connection(listener.getsockname())
    s = listener.accept()[0]
    return client, s


def close_all():
    for s in kept:
        s.close()


if how in ("pool", "idle"):
    pairs = [serve() for _ in range(n)]
    for client, s in pairs:
        client.close()
        kept.append(s)
    del pairs, client, s
else:
    for _ in range(n):
        client, s = serve()
        client.close()
        while s.recv(100):
            pass
        if how == "close":
            s.close()
        kept.append(Owner(s) if how == "del" else s)
    del s
time.sleep(0.7)
if how == "atexit":
    atexit.register(close_all)
if how in ("late", "pool"):
    close_all()
