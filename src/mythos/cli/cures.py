"""The command that comes next, by the reason why the gate says no (`mythos.records.reasons.Code`)."""

_PLAN = "mythos evaluate plan TIER --suite S --as EVALUATOR, then mythos evaluate run TIER --as EVALUATOR"
_VOTE = "mythos vote cast TIER --as PERSON"

CURES = {
    "NO_TRUST_ROOT": "mythos trust init NAME --threshold N --person alice:safety ...",
    "NO_POLICY": "mythos policy activate house --by PERSON ...",
    "POLICY_CHANGED": "evaluate and vote again under the policy in force: mythos gate check TIER",
    "NOT_REGISTERED": _PLAN,
    "NOT_PREREGISTERED": _PLAN,
    "EVIDENCE_MISSING": _PLAN,
    "EVIDENCE_EXPIRED": _PLAN,
    "EVIDENCE_VOID": _PLAN,
    "SAFEGUARD_UNMEASURED": _PLAN,
    "RUN_INCOMPLETE": "mythos evaluate run TIER --as EVALUATOR",
    "EXTERNAL_MISSING": "mythos person enrol NAME --role external_evaluator --org O --by PERSON ...",
    "PRECURSOR_ABOVE_ALERT": "a suite of the domain's own, in the policy pack: no vote stands in for it",
    "QUORUM_NOT_MET": _VOTE,
    "ROLE_MISSING": _VOTE,
    "VOTE_EXPIRED": _VOTE,
    "EVIDENCE_ROOT_CHANGED": _VOTE,
    "VETOED": "its author alone: mythos vote withdraw VOTE --as PERSON (mythos vote list)",
    "STAGE_SKIPPED": "mythos release status",
    "TOO_EARLY": "mythos release status",
    "SUSPENDED": "mythos release resume SUSPENSION --by PERSON ...",
    "SIGNATURE_INVALID": "mythos person list shows which keys are enrolled; sign with one of them",
    "SIGNER_NOT_AUTHORISED": "mythos person list",
    "UNKNOWN_SUBJECT": "mythos release status, vote list, org list and grant list name what is on record",
    "ORGANISATION_UNKNOWN": "mythos org add NAME --audience CLASS --as PERSON",
    "NOT_AUTHOR": "mythos vote list",
    "GRANT_WIDENS": "mythos grant list: a contractor's grant may only narrow its parent",
    "ID_TAKEN": "choose another name: names are never used again",
    "POLICY_ROLLBACK": "raise the pack's version: what was in force never returns under its number",
    "STATE_DAMAGED": "mythos ledger verify; restore the database from your backup",
}
