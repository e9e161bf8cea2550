"""Run inside gdb, attached to a server: prints the program counters of the physical
frames at each accept4, read and recv that returns and at the first close after them.

  READY
  return accept4 0x7f.. 0x55.. ...
  ...
  call close 0x7f.. ...
"""
import gdb

# System calls of x86-64.
NAMES = {0: "read", 3: "close", 45: "recvfrom", 288: "accept4"}
ENOSYS = 38  # the result of a call that has not been made yet


def frames():
    frame = gdb.newest_frame()
    while frame is not None:
        # An inlined call has no frame on the stack.
        if frame.type() != gdb.INLINE_FRAME:
            yield hex(frame.pc())
        frame = frame.older()


for setting in ("pagination off", "confirm off", "debuginfod enabled off", "backtrace past-main on", "backtrace past-entry on"):
    gdb.execute("set " + setting)
gdb.execute("catch syscall accept4 recvfrom read close", to_string=True)
print("READY", flush=True)
accepted = False
while True:
    gdb.execute("continue", to_string=True)
    name = NAMES[int(gdb.parse_and_eval("$orig_rax"))]
    called = int(gdb.parse_and_eval("(long)$rax")) == -ENOSYS
    accepted = accepted or name == "accept4" and not called
    if accepted and called == (name == "close"):
        print("call" if called else "return", name, *frames(), flush=True)
        if called:
            break
gdb.execute("detach")
