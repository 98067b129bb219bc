"""What may be loaded and answered. `authorize` decides, for every route; nothing else does.

Public: `authorize.Standing`, `authorize.load_standing`, `authorize.authorize`, `authorize.known_tiers`,
`handling.operator_keys`, `handling.issue_handling`.
"""
