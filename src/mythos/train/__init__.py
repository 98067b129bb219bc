"""Making weights: `build_tier` fetches, converts and registers a tier."""

import os

# Read by torch when it first allocates: tensors of 2 MB and more ask for huge pages. A step's gradients and
# activations are fresh memory each time, whose small pages cost a seventh of it (docs/notebook.md).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
