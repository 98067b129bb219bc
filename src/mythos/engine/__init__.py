"""The loader (the only way to a loaded tier) and the engine that answers from it."""

import os

# Read by torch's thread pool (GNU OpenMP) when torch is first imported. By default a waiting thread spins for
# milliseconds and takes the core from the server and its clients; one that sleeps at once wakes too late for
# a decoding step. Some ten thousand turns cost little of either: figures in docs/notebook.md.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
