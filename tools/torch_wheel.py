"""Ask pip about torch without downloading it. Run with the Python that torch is to be installed for.

    python tools/torch_wheel.py check 2.13.0   exit 1 and one sentence when pip would take a CUDA build
    python tools/torch_wheel.py missing        what the installed torch requires and is not installed

`pip install --dry-run` would answer the first question too, but the pip 23.2 that Python 3.11 brings
downloads the wheel for it, and newer ones do where the index announces no metadata files (PEP 658). So this
uses pip's own finder, with the user's pip configuration, and reads the metadata beside the wheel or, by
range requests, inside it.
"""

import sys
import zipfile
from email.parser import HeaderParser
from importlib import metadata

from pip._internal.commands.install import InstallCommand
from pip._internal.network.lazy_wheel import HTTPRangeRequestUnsupported, dist_from_wheel_url
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.specifiers import SpecifierSet
from pip._vendor.packaging.utils import canonicalize_name

WAYS_OUT = (
    "set TORCH_INDEX to the CPU index URL shown on PyTorch's Get Started page to take the CPU build "
    "(about 0.2 GB), or set ALLOW_CUDA=1 to go on"
)


def requirements(lines):
    """The requirements among `Requires-Dist` lines that hold on this machine, extras left out."""
    parsed = [Requirement(line) for line in lines]
    return [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]


def is_cuda(version, requires):
    """True for a wheel marked +cuNNN or one that asks for NVIDIA's libraries on this machine."""
    local = version.partition("+")[2]
    return local.startswith("cu") or any(r.name.startswith(("nvidia-", "cuda-")) for r in requires)


def metadata_text(link, session):
    """The METADATA of the wheel behind a pip Link, or None when only a download would tell."""
    if link.is_file:
        with zipfile.ZipFile(link.file_path) as wheel:
            name = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
            return wheel.read(name).decode()
    beside = session.get(link.url_without_fragment + ".metadata", headers={"Accept-Encoding": "identity"})
    if beside.status_code == 200 and beside.text.startswith("Metadata-Version:"):
        return beside.text
    try:
        wheel = dist_from_wheel_url(canonicalize_name("torch"), link.url_without_fragment, session)
        return wheel.read_text("METADATA")
    except (HTTPRangeRequestUnsupported, zipfile.BadZipFile):
        return None


def check(version):
    """The sentence to stop with, or None when pip would take torch `version` as a build without CUDA."""
    command = InstallCommand("install", "")
    options, _ = command.parse_args([])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options=options, session=session)
        best = finder.find_best_candidate("torch", SpecifierSet(f"=={version}")).best_candidate
        if best is None:
            return (
                f"pip finds no torch {version} for this Python ({sys.version.split()[0]}, {sys.platform}): "
                "check the network, and that this is a 64-bit Python from 3.11 to 3.14 (make PYTHON=...)."
            )
        text = metadata_text(best.link, session) if best.link.is_wheel else None
    if text is None:
        return (
            f"the package index does not tell whether its torch {version} is the CUDA build, a download of "
            f"about 3 GB in all: {WAYS_OUT}."
        )
    requires = requirements(HeaderParser().parsestr(text).get_all("Requires-Dist", []))
    if is_cuda(str(best.version), requires):
        return f"torch {version} would come as its CUDA build, a download of about 3 GB in all: {WAYS_OUT}."
    return None


def missing():
    """What the installed torch requires and nothing is installed for: the libraries of a CUDA build."""
    installed = {canonicalize_name(d.metadata["Name"]) for d in metadata.distributions()}
    wanted = requirements(metadata.requires("torch") or [])
    for requirement in wanted:
        requirement.marker = None
    return [str(r) for r in wanted if canonicalize_name(r.name) not in installed]


def main():
    if sys.argv[1] == "check":
        sentence = check(sys.argv[2])
        if sentence:
            sys.exit(f"error: {sentence}")
    else:
        for requirement in missing():
            print(requirement)


if __name__ == "__main__":
    main()
