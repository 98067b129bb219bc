"""Run by `fetch` in a process of its own: download one file of a package, as pip would, and build nothing.

    python pip_sdist.py PROJECT FILE TARGET

`pip download` runs an sdist's build backend for its metadata, even with --no-deps. So this asks pip's own
finder for the link (indexes, proxies, certificates and credentials are those of the user's pip) and copies
what lies behind it to TARGET. Nothing is unpacked; the hash is for the caller to check.
"""

import shutil
import sys

from pip._internal.commands.download import DownloadCommand

BLOCK = 1 << 20


def main(project: str, file: str, target: str) -> str:
    """Empty, or what went wrong."""
    command = DownloadCommand("download", "")
    options, _ = command.parse_args(["--no-input", "--quiet"])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options=options, session=session)
        links = [c.link for c in finder.find_all_candidates(project) if c.link.filename == file]
        if not links:
            return f"the index offers no file {file}, or cannot be reached"
        with open(target, "xb") as out:
            if links[0].is_file:
                with open(links[0].file_path, "rb") as source:
                    shutil.copyfileobj(source, out)
            else:
                answer = session.get(
                    links[0].url_without_fragment, headers={"Accept-Encoding": "identity"}, stream=True
                )
                answer.raise_for_status()
                for block in answer.iter_content(BLOCK):
                    out.write(block)
    return ""


if __name__ == "__main__":
    try:
        problem = main(*sys.argv[1:])
    except Exception as error:  # pip's and its network library's own, of many kinds
        problem = f"{type(error).__name__}: {error}"
    if problem:
        sys.exit(f"ERROR: {problem}")
