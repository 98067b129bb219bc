"""`mythos data list|build|show`."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mythos.cli.local import built, open_records, require, standing
from mythos.cli.naming import no_tier
from mythos.cli.output import CommandError, Exit, emit, json_wanted, note, table
from mythos.cli.progress import progress
from mythos.data.documents import DataError, Document, Opened
from mythos.data.fetch import Progress, archive_place
from mythos.data.sources import DOMAINS, MIXES, SAFETY, SOURCES, Source, sources_of
from mythos.records.permit import Action
from mythos.spec.load import load_family
from mythos.store.home import Home, private_directory

if TYPE_CHECKING:
    from mythos.data.corpus import Corpus

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
FACTS = ("package", "sha256", "files", "seeds", "licence")


def run_list() -> int:
    home = Home.open()
    rows = [source_row(source, home) for source in SOURCES]
    corpora = sorted(path.parent.name for path in _place(home).glob("*/train") if path.parent.name[0] != ".")
    if json_wanted():
        emit({"sources": rows, "domains": list(DOMAINS), "mixes": MIXES, "built": corpora})
        return 0
    heads = [name for name in rows[0] if name != "role"]
    table(heads, [[row[name] for name in heads] for row in rows])
    table(["source", "role"], [[row["source"], row["role"]] for row in rows])
    shares = [
        [mix, ", ".join(f"{name} {share:.0%}" for name, share in of.items())] for mix, of in MIXES.items()
    ]
    table(["mix", "rows"], shares)
    note(f"built: {', '.join(corpora) or 'none; mythos data build DOMAIN'}")
    return 0


def source_row(source: Source, home: Home | None = None) -> dict[str, str]:
    """One line of the table of sources. Python's own files have no pin before they are read."""
    archive = source.archive
    if archive is None:
        fetched = "not needed"
    else:
        fetched = "yes" if home and archive_place(archive, home.cache).exists() else "no"
    return {
        "source": source.name,
        "domain": source.domain,
        "package": source.package,
        "sha256": archive.sha256[:12] if archive else "",
        "licence": source.licence,
        "role": source.role,
        "fetched": fetched,
    }


def run_build(domains: list[str], own: Path | None, family: str, tier: str | None, file: Path | None) -> int:
    _check(domains, own)
    home = Home.open()
    tokenizer, template = _tokenizer_file(file) if file else _tokenizer_of(family, tier)
    private_directory(_place(home))
    from mythos.data.build import build_corpus
    from mythos.data.overlap import index_items
    from mythos.evaluate.items import evaluation_items

    results = []
    with progress("evaluations") as report:
        evaluations = index_items(evaluation_items(home.cache, report))
    for domain in dict.fromkeys(domains):
        began = time.monotonic()
        with progress(domain) as report:
            opened = _open(domain, own, home, report)
            facts = {name: dict(one.facts) for name, one in opened.items()}
            corpora = build_corpus(
                _place(home) / domain,
                domain,
                _documents(opened),
                facts,
                tokenizer,
                template,
                evaluations,
                report,
            )
        results.append({"domain": domain, "seconds": round(time.monotonic() - began, 1), **_summary(corpora)})
    if json_wanted():
        emit({"built": results})
        return 0
    for result in results:
        _show(result)
    return 0


def run_show(name: str, verify: bool) -> int:
    from mythos.data.corpus import SPLITS, CorpusError, open_corpus

    place = Path(name)
    if NAME.fullmatch(name) and not place.exists():
        place = _place(Home.open()) / name
    if (place / "manifest.json").is_file():
        corpus = open_corpus(place, verify)
        corpora = {corpus.manifest["split"]: corpus}
    else:
        corpora = {one: open_corpus(place / one, verify) for one in SPLITS if (place / one).is_dir()}
    if not corpora:
        raise CorpusError(f"There is no corpus at {place}.", "mythos data build DOMAIN; mythos data list")
    if json_wanted():
        emit({"path": str(place), "manifests": {one: corpus.manifest for one, corpus in corpora.items()}})
        return 0
    first = next(iter(corpora.values()))
    _show({"domain": first.manifest["domain"], **_summary(corpora)})
    facts = [
        [source, *(_short(one.get(name, "")) for name in FACTS)]
        for source, one in first.manifest["sources"].items()
    ]
    table(["source", *FACTS], facts)
    for step, rule in first.manifest["rules"].items():
        note(f"{step}: {rule}")
    return 0


def _check(domains: list[str], own: Path | None) -> None:
    known = (*DOMAINS, SAFETY)
    if own is None:
        if unknown := [name for name in domains if name not in known]:
            choice = f"one of {', '.join(known)}; your own text: mythos data build {unknown[0]} --from PATH"
            raise CommandError(f"there is no domain {unknown[0]}", choice, Exit.USAGE)
    elif len(domains) != 1 or domains[0] in known or not NAME.fullmatch(domains[0]):
        raise CommandError(
            "your own text needs one new name: small letters, digits, - and _",
            f"mythos data build mine --from {own}",
            Exit.USAGE,
        )


def _place(home: Home) -> Path:
    return home.path / "data"


def _open(domain: str, own_path: Path | None, home: Home, report: Progress) -> dict[str, Opened]:
    if own_path is not None:
        from mythos.data.own import SOURCE, own

        return {SOURCE: own(own_path)}
    return {source.name: source.open(home.cache, report) for source in sources_of(domain)}


def _documents(opened: dict[str, Opened]) -> Iterator[Document]:
    for one in opened.values():
        yield from one.documents


def _tokenizer_file(file: Path) -> tuple[bytes, str]:
    from mythos.data.train_tokenizer import CHAT_TEMPLATE

    try:
        return file.read_bytes(), CHAT_TEMPLATE
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}).", "Name a tokenizer.json.") from None


def _tokenizer_of(family_name: str, tier: str | None) -> tuple[bytes, str]:
    """Tokenizer and chat template of a built tier, out of its sealed and verified weights."""
    records = open_records()
    state = standing(records, load_family(family_name))
    names = built(state)
    if not names or (tier is not None and tier not in names):
        raise no_tier(names, tier or "")
    chosen = state.family.tier(tier or names[0])
    require(state, chosen.name, Action.LOAD, records.clock.now())
    from mythos.model.weights_dir import TEMPLATE, TOKENIZER, read_weights
    from mythos.store.weights_key import weights_keyring

    root = chosen.root or ""
    files = read_weights(records.home.weights_dir(root), weights_keyring(records.home), root).files
    note(f"tokenizer of {state.family.name}/{chosen.name}")
    return files[TOKENIZER], files[TEMPLATE].decode()


def _summary(corpora: "dict[str, Corpus]") -> dict[str, Any]:
    first = next(iter(corpora.values())).manifest
    return {
        "splits": {name: {"digest": one.digest, **one.manifest["counts"]} for name, one in corpora.items()},
        "sources": {name: source["steps"] for name, source in first["sources"].items()},
        "decontamination": first["decontamination"]["suites"],
    }


def _show(result: dict[str, Any]) -> None:
    splits = result["splits"]
    heads = ["split", *next(iter(splits.values()))]
    rows = [[name, counts["digest"][:12], *list(counts.values())[1:]] for name, counts in splits.items()]
    table(heads, rows, f"{result['domain']}{_took(result)}")
    steps = result["sources"]
    heads = ["source, documents", *next(iter(steps.values()))]
    table(heads, [[name, *(count["documents"] for count in of.values())] for name, of in steps.items()])
    suites = [
        [suite, facts["items"], facts["too_short"], sum(facts["documents_dropped"].values())]
        for suite, facts in result["decontamination"].items()
    ]
    table(["evaluation", "items", "too short", "documents dropped"], suites)
    if "held_out" not in splits:
        note("nothing is held out: there are too few groups of documents")


def _short(value: Any) -> Any:
    """A digest's beginning; `--json` has all of it."""
    return value[:12] if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else value


def _took(result: dict[str, Any]) -> str:
    return f", {result['seconds']} s" if "seconds" in result else ""
