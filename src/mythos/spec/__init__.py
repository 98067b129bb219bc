"""What a family and a model are: configuration, tiers, counting. Pure: no torch, no I/O but reading a family file."""
