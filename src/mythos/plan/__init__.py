"""What it will take and what it will give, before it is made. Numbers with intervals; no torch.

Public: `tier.plan_tier`, `compared.compare`, `report.report`, `search.search`, `choose.choose`,
`uncertain.answers`; `memory.memory`, `step.step`; `serve_tier.serve_tier`, `simulate.simulate`; `validate`,
`calibrate`; `scaling.fit`, `scaling.forecast`, `scaling.optimal`, `sweep.read_runs`.
"""
