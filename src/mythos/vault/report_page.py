"""A report as one HTML file: no script, nothing to fetch, its data within it.

The same data give the same bytes. So a page can be checked: what it shows is made again from what it carries,
and compared byte for byte.
"""

import re
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined

from mythos.records.bundle import BROKEN, Step
from mythos.records.canonical import RecordError, canonical, parse, parse_canonical
from mythos.records.clock import stamp
from mythos.records.report_proof import LARGEST, ReportCheck, verify_report
from mythos.vault.report_fields import TITLES
from mythos.vault.report_sources import mark

_DATA = re.compile(rb'<script type="application/json" id="report">(.*?)</script>', re.DOTALL)
_OUTSIDE = (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"))


def render(document: dict[str, Any]) -> bytes:
    """The page of a report's document, which is verified first. RecordError when it does not hold."""
    data = canonical(document)
    found = verify_report(data)
    if found.status == BROKEN or found.record is None:
        raise RecordError(f"no page of a report that does not verify: {found.steps[-1].text}")
    record = found.record
    numbers: dict[str, int] = {}
    cited = {}
    for one in found.fields:
        for line in one.field.lines if one.field else ():
            for source in line.cited:
                cited.setdefault(source.record, source)
                numbers.setdefault(source.record, len(numbers) + 1)
    text = data.decode()
    for plain, escaped in _OUTSIDE:
        text = text.replace(plain, escaped)
    page = (
        _templates()
        .get_template("report.html")
        .render(
            report=record,
            title=TITLES[record.kind],
            chain=found.chain,
            at=stamp(found.at),
            opened=found.fields,
            public=found.public,
            withheld=sum(one.field is None for one in found.fields),
            numbers=numbers,
            cited=cited.values(),
            mark=mark,
            data=text,
        )
    )
    return page.encode()


def document_in(page: bytes) -> bytes:
    """The canonical JSON that a page carries. RecordError when it carries none, or two."""
    found = _DATA.findall(page)
    if len(found) != 1 or len(page) > LARGEST:
        raise RecordError("this is not a page of a report")
    return canonical(parse(found[0], LARGEST))


def verify_page(page: bytes, trust: str = "") -> ReportCheck:
    """As `records.report_proof.verify_report`, and the page shows exactly what it carries. Never raises."""
    try:
        data = document_in(page)
    except RecordError as error:
        return ReportCheck(BROKEN, (Step(False, error.message),), verify_report(b"").chain)
    found = verify_report(data, trust)
    if found.status == BROKEN:
        return found
    if render(parse_canonical(data, LARGEST)) != page:
        message = "the page does not show what it carries, or was made by another version of mythos"
        return ReportCheck(BROKEN, (*found.steps, Step(False, message)), found.chain)
    shown = Step(True, "page: made again from its data, it is the same to the byte")
    return ReportCheck(found.status, (*found.steps, shown), found.chain, found.record, found.at, found.fields)


@cache
def _templates() -> Environment:
    place = files("mythos.vault") / "pages"
    names = ("base.html", "report.html", "style.css")
    sources = {name: (place / name).read_text("utf-8") for name in names}
    return Environment(
        loader=DictLoader(sources),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
