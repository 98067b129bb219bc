"""What a family and a model are: configuration, tiers, counting. No torch; no I/O but a family file."""
