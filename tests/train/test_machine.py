"""What a training freed goes back to the system."""

import subprocess
import sys
from pathlib import Path

import pytest

# 200 MB in pieces below what the C library maps by itself, and one more after them that stays.
CODE = """
import ctypes
from pathlib import Path
from mythos.train.machine import give_back_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
pieces = [libc.malloc(100_000) for _ in range(2000)]
for piece in pieces:
    ctypes.memset(piece, 1, 100_000)
last = libc.malloc(100_000)
for piece in pieces:
    libc.free(piece)
kept = resident()
give_back_memory()
print(kept - resident())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc; CI has one")
def test_freed_memory_goes_back() -> None:
    said = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert int(said.stdout) > 150e6
