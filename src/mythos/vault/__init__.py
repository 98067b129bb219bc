"""Assets that are private by default; publication, which makes another object; incidents; reports.

Plain functions over (store, clock, principal). Public: `assets`, `shares`, `search`, `importing`,
`publications`, `incidents`, `counting`, `statements`, `reports`, `report_page`; who may
read is decided by `mythos.gate.assets` alone. No torch.
"""
