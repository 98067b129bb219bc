"""The standard library of the running Python as training text: its code, its docstrings, its topics.

Nothing of it is imported but `pydoc_data.topics`, which holds text. Left out: tests, installed packages,
tables of characters, and files that a build of Python writes (they name places of that machine).
"""

import ast
import hashlib
import inspect
import platform
import sysconfig
import textwrap
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mythos.data.documents import DataError, Document, Opened

LICENCE = "PSF-2.0"
LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"}
)
WRITTEN_BY_BUILD = "_sysconfigdata"
MAX_LINES = 60  # of a function that is learnt as a pair
DOCSTRING = (20, 1500)  # characters

ASK_DOCSTRING = "Write a docstring for this Python function.\n\n```python\n{code}\n```"
ASK_CODE = (
    "Write the Python function `{name}`. It begins like this:\n\n```python\n{head}\n```\n\n"
    "Its docstring says:\n\n{docstring}"
)


def library() -> Path:
    """The directory of the standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def library_files(root: Path) -> list[Path]:
    """The .py files of it that are read, sorted by their names below `root`."""
    found = []
    for path in root.rglob("*.py"):
        below = path.relative_to(root)
        if not LEFT_OUT.intersection(below.parts[:-1]) and not path.name.startswith(WRITTEN_BY_BUILD):
            found.append((below.as_posix(), path))
    return [path for _, path in sorted(found)]


def code(root: Path | None = None) -> Opened:
    """Each module as one document."""
    place = root or library()
    files = library_files(place)

    def documents() -> Iterator[Document]:
        for name, text in _texts(place, files):
            yield Document("python-code", name, f"python:{name}", text)

    return Opened(_facts(place, files), documents())


def docstrings(root: Path | None = None) -> Opened:
    """Each documented function as a request and its answer: half ask for the docstring, half for the code."""
    place = root or library()
    files = library_files(place)

    def documents() -> Iterator[Document]:
        for name, text in _texts(place, files):
            for function, messages in pairs(text):
                yield Document("python-docstrings", f"{name}:{function}", f"python:{name}", messages=messages)

    return Opened(_facts(place, files), documents())


def topics() -> Opened:
    """The topics of `help()`: the language reference's own prose."""
    from pydoc_data import topics as module

    def documents() -> Iterator[Document]:
        for name, text in sorted(module.topics.items()):
            yield Document("python-topics", name, f"python-topic:{name}", text.strip() + "\n")

    file = Path(str(module.__file__))
    return Opened(_facts(file.parent, [file]), documents())


def pairs(source: str) -> list[tuple[str, tuple[dict[str, str], ...]]]:
    """(qualified name, messages) of each function of a module that has a docstring and code beside it."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return []
    lines = source.splitlines()
    found = []
    for name, node in _functions(tree, ""):
        docstring, first = ast.get_docstring(node), node.body[0]
        end = node.end_lineno or node.lineno
        start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        if docstring is None or not DOCSTRING[0] <= len(docstring) <= DOCSTRING[1]:
            continue
        # A docstring on the line of its `def`, or with nothing after it, leaves no code to show.
        if len(node.body) < 2 or first.lineno == node.lineno or end - start >= MAX_LINES:
            continue
        body = node.body[1]
        begins = min([body.lineno, *(d.lineno for d in getattr(body, "decorator_list", []))])
        if begins <= (first.end_lineno or first.lineno):
            continue
        head = lines[start - 1 : first.lineno - 1]
        whole = textwrap.dedent("\n".join([*head, *lines[(first.end_lineno or 0) : end]]))
        docstring = inspect.cleandoc(docstring)
        if hashlib.sha256(name.encode()).digest()[0] % 2:
            ask, answer = ASK_DOCSTRING.format(code=whole), f'"""{docstring}"""'
        else:
            shown = textwrap.dedent("\n".join(head))
            ask = ASK_CODE.format(name=node.name, head=shown, docstring=docstring)
            answer = f"```python\n{whole}\n```"
        found.append((name, ({"role": "user", "content": ask}, {"role": "assistant", "content": answer})))
    return found


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if not isinstance(child, ast.ClassDef):
                yield f"{prefix}{child.name}", child
            yield from _functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.If | ast.Try | ast.With):
            yield from _functions(child, prefix)


def _texts(root: Path, files: Sequence[Path]) -> Iterator[tuple[str, str]]:
    for path in files:
        try:
            with tokenize.open(path) as source:  # by the file's own declaration of its encoding
                text = source.read()
        except (OSError, SyntaxError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read ({error}).", "Repair this Python.") from None
        if text.strip():
            yield path.relative_to(root).as_posix(), text


def _facts(root: Path, files: Sequence[Path]) -> dict[str, Any]:
    """The digest is over the names and SHA-256 of the files that are read, in order."""
    digest = hashlib.sha256()
    for path in files:
        name = path.relative_to(root).as_posix()
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    version = f"{platform.python_implementation()} {platform.python_version()}"
    return {"package": version, "sha256": digest.hexdigest(), "files": len(files), "licence": LICENCE}
