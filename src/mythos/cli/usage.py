"""`mythos usage`: who used which tier, on which day, at what cost."""

from dataclasses import asdict

from mythos.cli.local import open_records
from mythos.cli.output import emit, json_wanted, note, show
from mythos.store.usage import usage_summary


def run(org: str | None) -> int:
    totals = usage_summary(open_records().store, org)
    if json_wanted():
        emit({"usage": [asdict(total) for total in totals]})
        return 0
    if not totals:
        note("nothing used yet")
        return 0
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table("organisation", "tier", "day (UTC)", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("requests", "tokens in", "cached", "tokens out", "cost", "seconds"):
        table.add_column(heading, justify="right")
    for t in totals:
        counts = (f"{n:,}" for n in (t.requests, t.input_tokens, t.cached_tokens, t.output_tokens))
        table.add_row(t.org, t.tier, t.day, *counts, f"{t.cost:.6f}", f"{t.seconds:.1f}")
    show(table)
    return 0
