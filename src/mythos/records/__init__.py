"""The records that cross packages: principals, permits, decisions, roots, canonical form. Pure: no torch, no I/O."""
