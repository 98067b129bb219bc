"""The loader (the only way to a loaded tier) and the engine that answers from it."""
