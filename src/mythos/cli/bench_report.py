"""The record of `mythos bench` as tables and lines for a person."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from mythos.cli.bench_rounds import ENGINE, ONE_STREAM, SERVERS

if TYPE_CHECKING:
    from rich.console import RenderableType

Record = Mapping[str, Any]


def report(record: Record) -> list["RenderableType"]:
    """Everything but the single steps, which only the JSON form has."""
    lines = [*_machine(record), ""]
    parts: list[RenderableType] = ["\n".join(lines)]
    speed = [metric for metric in record["metrics"] if not metric["name"].startswith("server")]
    server = [metric for metric in record["metrics"] if metric["name"].startswith("server")]
    if speed:
        parts.append(_speeds(record, speed))
        if len(record["arms"]) > 1:
            parts.append(_ratios(record, speed))
    if server:
        parts.append(_overheads(server))
    return [*parts, "\n".join([*_conclusions(speed), *_arms(record), *_noise(record)])]


def _machine(record: Record) -> list[str]:
    about = record["machine"]
    has = [name for name, there in about["instructions"].items() if there]
    lacks = [name for name, there in about["instructions"].items() if not there]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items() if number)
    return [
        f"{about['processor']}, {about['cores']} cores{' (virtual)' if about['virtual'] else ''}, "
        f"level-3 cache {about['level3_cache'] or 'unknown'}, memory {about['memory_bytes'] / 1e9:.0f} GB",
        f"has {' '.join(has) or 'none we look for'}; lacks {' '.join(lacks) or 'none'}",
        f"{about['system']}, Python {about['python']}, {versions}",
        f"{record['model']['family']}/{record['model']['tier']} from {record['model']['file']}, "
        f"{record['threads']} threads each, {record['rounds']} measured rounds after a warm-up"
        + (" (quick: not to be quoted)" if record.get("quick") else "")
        + (" (stopped early)" if record["interrupted"] else ""),
    ]


def _speeds(record: Record, metrics: list[Record]) -> Table:
    table = Table(title="median (lowest - highest)", title_justify="left")
    table.add_column("")
    for arm in record["arms"]:
        table.add_column(f"{arm['name']}\n{arm['weight_bytes'] / 1e6:.1f} MB a token", justify="right")
    for metric in metrics:
        values = [_span(metric["arms"].get(arm["name"]), metric["unit"]) for arm in record["arms"]]
        table.add_row(f"{metric['title']}, {metric['unit']}", *values)
    return table


def _ratios(record: Record, metrics: list[Record]) -> Table:
    ours, *peers = (arm["name"] for arm in record["arms"])
    table = Table(title=f"how many times as fast {ours} was, median (lowest - highest)", title_justify="left")
    table.add_column("")
    for name in peers:
        table.add_column(f"as {name}", justify="right")
    table.add_column("as the best", justify="right")
    for metric in metrics:
        best = metric["best_peer"]
        ratios = [_span(metric["ratios"].get(name), "x") for name in (*peers, best)]
        table.add_row(metric["title"], *ratios[:-1], ratios[-1] + (f"\n{best}" if best else ""))
    return table


def _overheads(metrics: list[Record]) -> Table:
    table = Table(title="our server over our engine, median (lowest - highest)", title_justify="left")
    for title in ("", "engine", "server", "more"):
        table.add_column(title, justify="right" if title else "left")
    for metric in metrics:
        for name, api in SERVERS.items():
            arms, ratio, more = metric["arms"], metric["ratios"].get(name), "-"
            if ratio is not None:
                median, low, high = (f"{ratio[key] - 1:+.1%}" for key in ("median", "min", "max"))
                more = f"{median} ({low} - {high})"
            unit = metric["unit"]
            values = _span(arms.get(ENGINE), unit), _span(arms.get(name), unit)
            table.add_row(f"{metric['title']}, {api.path}, {unit}", *values, more)
    return table


def _conclusions(metrics: list[Record]) -> list[str]:
    """What takes more than one figure to say."""
    named = {metric["name"]: metric for metric in metrics}
    lines = []
    if one := named.get(ONE_STREAM):
        if heavy := one["best_peer_as_heavy"]:
            lines.append(
                f"{one['title']}: {_span(one['ratios'].get(heavy), 'x')} times as fast as {heavy}, "
                "the best of those that read as many bytes or more"
            )
        for name, share in one["bandwidth_share"].items():
            low, median, high = (f"{share[key]:.0%}" for key in ("min", "median", "max"))
            lines.append(
                f"{one['title']}: {name} reads weights at {median} ({low} - {high}) of memory's speed"
            )
    if (cold := named.get("prefix-cold")) and (warm := named.get("prefix-warm")):
        shares = {
            name: warm["arms"][name]["median"] / arm["median"]
            for name, arm in cold["arms"].items()
            if name in warm["arms"]
        }
        if shares:
            said = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
            lines.append(f"first token, warm as a share of cold: {said}")
    return lines


def _arms(record: Record) -> list[str]:
    lines = []
    for arm in record["arms"]:
        versions = ", ".join(f"{name} {number}" for name, number in arm["versions"].items())
        line = f"{arm['name']} ({versions}): {arm['weight_bytes'] / 1e6:.1f} MB of weights per token"
        if arm["peak_bytes"]:
            line += f"; peak memory {arm['peak_bytes'] / 1e6:.0f} MB"
        lines += [line, "  " + ", ".join(f"{name}: {value}" for name, value in arm["settings"].items())]
        if arm["failed"]:
            lines.append(f"  left the run: {arm['failed']}")
    lines += [f"{name}: not measured ({reason})" for name, reason in record["skipped"].items()]
    return lines


def _noise(record: Record) -> list[str]:
    noise = record["noise"]
    if not noise["steps"]:
        return ["nothing was measured"]
    lines = [
        f"machine before each step: matrix product {_span(noise['gflops'], 'GFLOP/s')} GFLOP/s, "
        f"reading memory {_span(noise['gbps'], 'GB/s')} GB/s"
    ]
    if noise["foreign_max"] is None:
        return [*lines, "what else ran is not known on this system"]
    return [
        *lines,
        f"at most, in any step: {noise['foreign_max']:.1%} of the machine used by other processes, "
        f"{noise['stolen_max']:.1%} taken by its host; resting workers {noise['resting_max']:.1%} of a core",
        f"{noise['disturbed']} of {noise['steps']} steps disturbed by more than 5%",
    ]


def _span(values: Record | None, unit: str) -> str:
    if values is None:
        return "-"
    low, median, high = (_short(values[key], unit) for key in ("min", "median", "max"))
    return f"{median} ({low} - {high})"


def _short(value: float, unit: str) -> str:
    return f"{value:.2f}" if unit in ("x", "s") else f"{value:.0f}" if value >= 100 else f"{value:.1f}"
