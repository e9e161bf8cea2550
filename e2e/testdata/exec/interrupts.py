# Counts SIGINTs from the first one on for half a second, then ends with 40 + their number.
import os, signal, sys, threading

count = 0
first = threading.Event()


def interrupted(*_):
    global count
    count += 1
    first.set()


signal.signal(signal.SIGINT, interrupted)
print("ready", flush=True)
while not first.is_set():
    signal.sigtimedwait([], 0.05)
for _ in range(10):
    signal.sigtimedwait([], 0.05)
sys.exit(40 + count)
