"""The loader (the only way to a loaded tier) and the engine that answers from it."""

import os

# Read by torch's thread pool when torch is first imported. Spinning threads, its default, take the core from
# the server and its clients on a small machine: prompts were up to 16 times slower beside a busy process.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
