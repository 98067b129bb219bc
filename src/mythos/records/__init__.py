"""The records that cross packages: principals, permits, decisions, roots, and the forms they are signed in.

Pure: no torch, no I/O. Each module is imported by its own name.
"""
