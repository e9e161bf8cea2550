"""A pool of idle http.client connections that nobody looks at: pool.py PORT N."""
import http.client
import sys
import time

pool = []
for _ in range(int(sys.argv[2])):
    conn = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
    conn.request("GET", "/hi")
    conn.getresponse().read()
    pool.append(conn)
print("idle", flush=True)
time.sleep(1 << 20)
