"""Assets that are private by default: shares, search, import; and publication, which makes another object.

Plain functions over (store, clock, principal). Public: `assets`, `shares`, `search`, `importing`; who may
read is decided by `mythos.gate.assets` alone. No torch.
"""
