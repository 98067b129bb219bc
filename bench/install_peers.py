"""Install the engines that `mythos bench` measures beside ours, apart from the environment of this project.

    python bench/install_peers.py

They go to .cache/peers by the hashes in bench/peers.lock. A stamp there says for which lock; when it is there
nothing is fetched. pip runs with the user's own configuration. Exits 1 when pip fails: `mythos bench` then
does without them. llama.cpp is compiled by build_llamacpp.py; xllamacpp is for where that cannot be done.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "bench" / "peers.lock"
PLACE = ROOT / ".cache" / "peers"


def main() -> int:
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    stamp = PLACE / "installed"
    if stamp.is_file() and stamp.read_text().strip() == wanted:
        return 0
    print("Installing the other engines: 118 MB to download, 375 MB on disk", flush=True)
    fresh = PLACE.with_name("peers.new")
    shutil.rmtree(fresh, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--no-input"]
    pip += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--target", str(fresh)]
    if subprocess.run([*pip, "--requirement", str(LOCK)]).returncode != 0:
        shutil.rmtree(fresh, ignore_errors=True)
        print("error: pip could not install them", file=sys.stderr)
        print("cure: read what pip says; `mythos bench` does without them", file=sys.stderr)
        return 1
    (fresh / "installed").write_text(wanted + "\n")
    shutil.rmtree(PLACE, ignore_errors=True)
    fresh.replace(PLACE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
