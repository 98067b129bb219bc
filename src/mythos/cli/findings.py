"""What a check of `mythos doctor` says."""

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """`status` is ok, warn or fail; whoever fails names the cure."""

    name: str
    status: str
    detail: str
    cure: str = ""
