"""Blocks in a chain of calls of every kind until standard input ends.

Prints, as a line of JSON for each of two threads, what the interpreter itself says of the
stack. A function named *_from_c is called by C code, one named *_inline is not.
"""

import asyncio
import json
import os
import sys
import threading


def stack():
    frames = []
    f = sys._getframe(1)
    while f is not None:
        code = f.f_code
        frames.append(
            {"function": code.co_qualname, "file": code.co_filename, "line": f.f_lineno}
        )
        f = f.f_back
    return frames


def say(name, frames):
    line = {"name": name, "thread": threading.get_ident(), "frames": frames}
    os.write(1, json.dumps(line).encode() + b"\n")


def block_inline(name):
    (say(name, stack()), os.read(0, 1))


def é_inline(name):
    block_inline(name)


def 工作_inline(name):
    é_inline(name)


def 𠀀_inline(name):
    工作_inline(name)


class Outer:
    class Inner:
        @staticmethod
        def method_inline(name):
            # The call's lines go forth and back.
            𠀀_inline(
                str(
                    name,
                ),
            )

        def __init__(self, name):
            if name:
                self.method_inline(name)


def make(name):
    # Often enough for the interpreter to call __init__ without C (3.12 and later).
    for i in range(100):
        Outer.Inner(name if i == 99 else None)


def generate(name):
    yield make(name)


def key_from_c(name):
    for _ in generate(name):
        pass
    return 0


def sort(name):
    return sorted([name], key=key_from_c)


async def inner_coroutine(name):
    [sort(n) for n in [name]]


async def coroutine(name):
    await inner_coroutine(name)


def run(name):
    asyncio.run(coroutine(name))


# Lines far apart, in a file that is not there, with a name of its own alphabet.
FAR = "def near_inline(name):\n run(name)\n" + "\n" * 3000 + "def far(name):\n near_inline(name)\n"
exec(compile(FAR, "/nowhere/日本.py", "exec"))

threading.Thread(target=lambda: far("thread")).start()
far("main")
