"""What it will take and what it will give, before it is made. Numbers with intervals; no torch.

Public: `scaling.fit`, `scaling.forecast`, `scaling.optimal`, `sweep.read_runs`.
"""
