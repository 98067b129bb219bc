"""What it will take and what it will give, before it is made. Numbers with intervals; no torch.

Public: `scaling.fit`, `scaling.forecast`, `scaling.optimal`, `sweep.read_runs`; `hardware.hardware`,
`layout.Layout`, `memory.memory`, `step.step`, `efficiencies.packaged`; `validate.validate`,
`calibrate.calibrate`, `cases.read_cases`.
"""
