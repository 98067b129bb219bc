"""`mythos doctor`: is this machine, installation and data in order? Every finding names its cure."""

import contextlib
import errno
import importlib.metadata
import os
import platform
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from mythos.cli import client, local
from mythos.cli.findings import FAIL, OK, WARN, Finding
from mythos.cli.output import Exit, console, emit, json_wanted, note
from mythos.records.errors import MythosError
from mythos.records.permit import Action
from mythos.spec.load import load_family
from mythos.store.db import Store
from mythos.store.home import Home
from mythos.store.session import read_session

MARKS = {OK: "[green]ok  [/]", WARN: "[yellow]warn[/]", FAIL: "[red]fail[/]"}
ENOUGH_DISK = 2_000_000_000  # bytes: the torch wheel, one small tier and its source
LEAST_DISK = 300_000_000  # bytes: below this the database itself is at risk


def run(family_name: str) -> int:
    findings = []
    for name, check in checks(family_name):
        for finding in careful(name, check):
            findings.append(finding)
            if not json_wanted():
                console().print(MARKS[finding.status], f"{finding.name}: {finding.detail}", highlight=False)
                if finding.cure:
                    console().print("     cure:", finding.cure, highlight=False, markup=False)
    failed = sum(finding.status == FAIL for finding in findings)
    if json_wanted():
        emit({"ok": not failed, "checks": [asdict(finding) for finding in findings]})
    elif failed:
        note(f"{failed} of {len(findings)} checks failed")
    return int(Exit.FAILED if failed else Exit.OK)


def checks(family_name: str) -> list[tuple[str, Callable[[], Iterable[Finding]]]]:
    return [
        ("python", python),
        ("torch", torch_version),
        ("processor", processor),
        ("permissions", permissions),
        ("disk", disk),
        ("database", database),
        ("clock", clock),
        ("weights", lambda: weights(family_name)),
        ("copies", registered_copies),
        ("decisions", lambda: decisions(family_name)),
        ("vault", vault),
        ("session", running),
        ("port", port),
        ("backend", backend),
        ("kernels", kernels),
    ]


def careful(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of a check; one that breaks is itself a finding."""
    try:
        yield from check()
    except MythosError as error:
        yield Finding(name, FAIL, error.message, error.cure)
    except Exception as error:
        yield Finding(
            name,
            FAIL,
            f"{type(error).__name__}: {error}",
            "report this with the output of mythos doctor --json",
        )


def python() -> Iterator[Finding]:
    """Older ones than we support do not come this far: the installer refuses them."""
    yield Finding("python", OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def torch_version() -> Iterator[Finding]:
    """The installed torch against the version this distribution asks for."""
    try:
        found = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("torch", FAIL, "not installed", "make up")
        return
    wanted = _wanted("torch")
    if wanted and found.partition("+")[0] != wanted:
        yield Finding("torch", WARN, f"{found}, tested with {wanted}", f"pip install torch=={wanted}")
    else:
        yield Finding("torch", OK, found)


def _wanted(package: str) -> str | None:
    """The pinned version in our own metadata; None when it pins none or we run uninstalled."""
    try:
        needs = importlib.metadata.requires("mythopoeia") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    pins = (need.partition("==")[2] for need in needs if need.startswith(f"{package}=="))
    return next((pin.partition(";")[0].strip() for pin in pins), None)


def processor() -> Iterator[Finding]:
    """What the kernels can use, best first: as Linux names it. Elsewhere only the architecture is known."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    flags: set[str] = set()
    with contextlib.suppress(OSError):
        flags.update(Path("/proc/cpuinfo").read_text().split())
    used = [name for name in ("amx_int8", "avx512_vnni", "avx512f", "avx2", "asimd") if name in flags]
    detail = f"{cores} cores, {', '.join(used) or platform.machine()}"
    if flags and not used:
        yield Finding("processor", WARN, detail, "a processor with AVX2 or NEON answers several times faster")
    else:
        yield Finding("processor", OK, detail)


def permissions() -> Iterator[Finding]:
    """Opening the home refuses what is not private; here every file in it and every key is looked at."""
    home = Home.open()
    yield Finding("home", OK, f"{home.path}, private")
    files = [path for path in home.path.iterdir() if path.is_file()]
    files += [home.path / "weights", home.path / "cache"]
    keys = list(home.keys_dir.iterdir())
    open_to_others = [path for path in [*files, *keys] if stat.S_IMODE(path.stat().st_mode) & 0o077]
    for path in open_to_others:
        mode = "700" if path.is_dir() else "600"
        yield Finding("permissions", FAIL, f"{path} is open to other users", f"chmod {mode} {path}")
    if not open_to_others:
        yield Finding("keys", OK, f"{home.keys}, {len(keys)} private")


def disk() -> Iterator[Finding]:
    path = Home.open().path
    free = shutil.disk_usage(path).free
    detail = f"{free / 1e9:.1f} GB free at {path}"
    cure = "make space, or set MYTHOS_HOME to a directory on a larger disk"
    if free < LEAST_DISK:
        yield Finding("disk", FAIL, detail, cure)
    elif free < ENOUGH_DISK:
        yield Finding("disk", WARN, detail, cure)
    else:
        yield Finding("disk", OK, detail)


def database() -> Iterator[Finding]:
    home = Home.open()
    store = Store.open(home)
    with store.engine.connect() as conn:
        found = [row[0] for row in conn.exec_driver_sql("PRAGMA integrity_check(5)")]
    if found == ["ok"]:
        yield Finding("database", OK, f"{home.database}, {home.database.stat().st_size / 1e6:.1f} MB")
    else:
        yield Finding("database", FAIL, "; ".join(found), f"restore {home.database} from a backup")


def clock() -> Iterator[Finding]:
    now = local.open_records().clock.now()
    yield Finding(
        "clock", OK, time.strftime("%Y-%m-%d %H:%M:%S UTC, not behind the ledger", time.gmtime(now))
    )


def weights(family_name: str) -> Iterator[Finding]:
    """Every registered root is hashed again from its bytes on disk."""
    from mythos.store.weights import registered

    records = local.open_records()
    rows = registered(records.store)
    for row in rows:
        name = f"weights {row.family}/{row.tier}"
        if not json_wanted():
            note(f"hashing {name} {row.root[:12]} ...")
        yield rehash(name, records.home, row.root, f"mythos build {row.tier} --family {row.family}")
    if not rows:
        yield Finding("weights", WARN, "none yet", f"mythos up {family_name}")


def registered_copies() -> Iterator[Finding]:
    """The registry of copies against what lies in the data directory."""
    from mythos.store.copies import list_copies, reconcile

    records = local.open_records()
    foreign, missing = reconcile(records.home, records.store)
    for path in foreign:
        cure = "mythos build TIER registers it, if it is a tier's; else, with no build running: rm -r"
        yield Finding("copies", WARN, f"{path} is registered nowhere", f"{cure} {path}")
    for copy in missing:
        detail = f"the {copy.form} copy {copy.place} of {copy.root[:12]} is gone"
        yield Finding("copies", WARN, detail, "mythos build TIER makes it again or enters that it is gone")
    live = [copy for copy in list_copies(records.store) if copy.removed is None]
    places = ", ".join(f"{copy.place.replace(copy.root, copy.root[:12])} ({copy.form})" for copy in live)
    if not foreign and not missing:
        yield Finding("copies", OK, f"{len(live)} registered: {places}" if live else "none")


def decisions(family_name: str) -> Iterator[Finding]:
    """Weights without a valid decision are not loaded, however sound they are."""
    records = local.open_records()
    state = local.standing(records, load_family(family_name))
    for tier in local.built(state):
        try:
            local.require(state, tier, Action.LOAD, records.clock.now())
        except MythosError as error:
            yield Finding(f"decision {family_name}/{tier}", FAIL, error.message, error.cure)
        else:
            yield Finding(
                f"decision {family_name}/{tier}", OK, f"{state.decisions[tier].id} allows loading it"
            )


def vault() -> Iterator[Finding]:
    from mythos.cli.doctor_vault import vault as checked

    yield from checked()


def rehash(name: str, home: Home, root: str, again: str) -> Finding:
    from mythos.model.errors import WeightsError
    from mythos.model.weights_dir import read_weights
    from mythos.store.weights_key import weights_keyring

    directory = home.weights_dir(root)
    if not directory.is_dir():
        return Finding(name, FAIL, f"{directory} is missing", again)
    try:
        read_weights(directory, weights_keyring(home))
    except MythosError as error:
        return Finding(name, FAIL, error.message, again if isinstance(error, WeightsError) else error.cure)
    return Finding(name, OK, f"bytes on disk hash to {root[:12]}")


def running() -> Iterator[Finding]:
    home = Home.open()
    session = read_session(home)
    if session is None:
        left = Path(home.session_file).exists()
        yield Finding(
            "session", OK, "left by a process that is gone, ignored" if left else "no `mythos up` is running"
        )
    elif client.healthy(client.Server(session.base_url, session.key)):
        yield Finding("session", OK, f"{session.base_url}, process {session.pid}, answers")
    else:
        yield Finding(
            "session",
            FAIL,
            f"process {session.pid} does not answer at {session.base_url}",
            f"kill {session.pid} and run `mythos up`",
        )


def port() -> Iterator[Finding]:
    try:
        socket.create_server(("127.0.0.1", local.PORT)).close()
        yield Finding("port", OK, f"{local.PORT} is free")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            yield Finding(
                "port", FAIL, f"cannot listen on loopback: {error.strerror}", "check the firewall or sandbox"
            )
            return
        session = read_session(Home.open())
        if session and session.base_url.endswith(f":{local.PORT}"):
            yield Finding("port", OK, f"{local.PORT} is used by `mythos up`")
        else:
            yield Finding(
                "port", WARN, f"{local.PORT} is taken by another program", "`mythos up` will take a free port"
            )


def backend() -> Iterator[Finding]:
    """Whether tiers are computed natively; the library is built when it is not there."""
    from mythos.engine.native.build import Unavailable, library
    from mythos.store.weights_key import weights_keyring

    if os.environ.get("MYTHOS_BACKEND") == "eager":
        yield Finding("backend", OK, "plain torch, as MYTHOS_BACKEND says")
        return
    home = Home.open()
    try:
        library(home, weights_keyring(home), note)
    except Unavailable as error:
        yield Finding("backend", WARN, f"plain torch, several times slower: {error.message}", error.cure)
    else:
        yield Finding("backend", OK, "native, built here and sealed")


def kernels() -> Iterator[Finding]:
    """Whether exact mode holds here: a row's result may not depend on the rows beside it."""
    from mythos.engine import selfcheck

    note("checking the kernels ...")
    cure = "exact mode is not exact on this machine: please report the output of mythos doctor --json"
    for name, good, detail in selfcheck.run():
        yield Finding(f"kernel {name}", OK if good else FAIL, detail, "" if good else cure)
