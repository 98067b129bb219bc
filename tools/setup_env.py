"""Make or repair the virtual environment `.venv`. Called by the Makefile; does nothing when all is in place.

    python3 tools/setup_env.py run | dev

`run` installs requirements.lock, `dev` requirements-dev.lock, which holds the same and more. The order:
torch alone, from TORCH_INDEX when that is set; the lock, by hash; this project, editable. A stamp in
`.venv` says for which lock and pyproject.toml the environment is complete. It is removed before anything
is changed, so an environment without a stamp is one whose set-up was interrupted: it is made anew, with
what pip has in its cache.
"""

import fcntl
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = str(VENV / "bin" / "python")
STAMP = VENV / "setup.json"
LOCKS = {"run": ROOT / "requirements.lock", "dev": ROOT / "requirements-dev.lock"}
TORCH_WHEEL = str(ROOT / "tools" / "torch_wheel.py")
PIP_INSTALL = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check"]


def key(profile):
    """Digest of what an environment of this profile is made from."""
    parts = [(ROOT / "pyproject.toml").read_bytes(), LOCKS[profile].read_bytes()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def read_stamp():
    """The stamp of a complete environment made at this place; {} when there is none."""
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if stamp.get("root") == str(ROOT) and os.access(PYTHON, os.X_OK) else {}


def torch_version():
    """The version pinned in pyproject.toml."""
    import tomllib

    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return next(d.removeprefix("torch==") for d in dependencies if d.startswith("torch=="))


def torch_installed(version):
    code = "from importlib.metadata import version; print(version('torch').partition('+')[0])"
    found = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True)
    return found.returncode == 0 and found.stdout.strip() == version


def install_torch(version, index):
    if torch_installed(version):
        return
    if not index and os.environ.get("ALLOW_CUDA") != "1":
        subprocess.run([PYTHON, TORCH_WHEEL, "check", version], check=True)
    print(f"[1/3] torch {version}", flush=True)
    subprocess.run([*PIP_INSTALL, "--no-deps", *index, f"torch=={version}"], check=True)


def install_lock(lock):
    """Show what pip says as one line that counts: this takes a minute or more."""
    command = [*PIP_INSTALL, "--require-hashes", "-r", str(lock)]
    total = sum(1 for line in lock.read_text().splitlines() if "==" in line)
    print(f"[2/3] {total} packages of {lock.name}", flush=True)
    taken = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            taken += line.startswith(("Collecting ", "Requirement already satisfied"))
            if sys.stdout.isatty():
                doing = "installing" if line.startswith("Installing ") else f"{taken} of {total}"
                print(f"\r      {doing:<20}\r", end="", flush=True)
    if pip.returncode:
        raise subprocess.CalledProcessError(pip.returncode, command)


def install_cuda_libraries(index):
    """What a CUDA build of torch needs beyond the lock; nothing for other builds."""
    asked = subprocess.run([PYTHON, TORCH_WHEEL, "missing"], check=True, capture_output=True, text=True)
    if missing := asked.stdout.splitlines():
        print("[2/3] the libraries of torch's CUDA build", flush=True)
        subprocess.run([*PIP_INSTALL, *index, *missing], check=True)


def install_project():
    print("[3/3] mythos", flush=True)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--editable"]
    subprocess.run([*PIP_INSTALL, *options, str(ROOT)], check=True)


def set_up(profile):
    stamp = read_stamp()
    if key(profile) == stamp.get(profile) or key("dev") == stamp.get("dev"):
        return
    if stamp:
        STAMP.unlink()
    else:
        print(f"Setting up {VENV} (the first time takes a few minutes)", flush=True)
        venv.create(VENV, clear=True, symlinks=True, with_pip=True)
    index = ["--index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
    install_torch(torch_version(), index)
    install_lock(LOCKS[profile])
    install_cuda_libraries(index)
    install_project()
    complete = {"root": str(ROOT), "run": key("run"), profile: key(profile)}
    written = STAMP.with_suffix(".new")
    written.write_text(json.dumps(complete))
    written.replace(STAMP)


def main():
    if sys.version_info < (3, 11):
        found = sys.version.split()[0]
        sys.exit(f"error: Python 3.11 or newer is needed, this is {found}: install one, or set PYTHON to it")
    if importlib.util.find_spec("ensurepip") is None:  # Debian and Ubuntu package it apart
        sys.exit("error: this Python cannot make virtual environments: install python3-venv")
    try:
        with open(ROOT / ".setup.lock", "w") as lock:  # two at once would remove each other's work
            fcntl.flock(lock, fcntl.LOCK_EX)
            set_up(sys.argv[1])
    except subprocess.CalledProcessError as failed:
        sys.exit(failed.returncode)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
