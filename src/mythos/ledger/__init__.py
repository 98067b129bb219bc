"""The append-only log of what was decided and attempted. Public: `append`, `audit`, `last_time` of `log`."""
