"""Small archives in the form of the pinned ones, made by the tests."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

from mythos.data.fetch import Archive


def sdist(place: Path, name: str, files: dict[str, str]) -> Archive:
    """`place`/name-1.tar.gz, and what pins it."""
    path = place / f"{name}-1.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for file, text in files.items():
            info = tarfile.TarInfo(f"{name}-1/{file}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return pinned(path, f"{name}==1")


def wheel(place: Path, name: str, files: dict[str, str]) -> Archive:
    path = place / f"{name}-1-py3-none-any.whl"
    info = {
        f"{name}-1.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{name}-1.dist-info/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    listed = "".join(f"{file},,\n" for file in [*files, *info])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, **info, f"{name}-1.dist-info/RECORD": listed}.items():
            archive.writestr(file, text)
    return pinned(path, f"{name}==1")


def pinned(path: Path, requirement: str) -> Archive:
    data = path.read_bytes()
    return Archive(requirement, path.name, len(data), hashlib.sha256(data).hexdigest())
