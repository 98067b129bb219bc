"""The append-only log of what was decided and attempted, provable as a C2SP transparency log.

Public: `append`, `audit`, `last_time` of `log`; `publish`, `prove`, `consistency` of `heads`;
`verify.verify`; `init_witness` and `cosign` of `witness`.
"""
