"""Where things lie: one data directory, and one directory for private keys that is never inside it.

Both are 0700 and belong to the user that runs the process; what others could have read is refused.
"""

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from mythos.records.decision import is_root
from mythos.records.errors import MythosError

APP = "mythopoeia"
KEYS_APP = "mythopoeia-keys"  # not a directory below APP's: on macOS data and configuration are one directory


class HomeError(MythosError):
    """A directory or file of ours has the wrong place, owner or permissions."""


@dataclass(frozen=True, slots=True)
class Home:
    """The data directory (`path`) and the place of the keys (`keys`, made on first use), both resolved."""

    path: Path
    keys: Path

    @staticmethod
    def open(path: str | os.PathLike[str] | None = None) -> "Home":
        """The home at `path`, else MYTHOS_HOME, else the user's data directory; created (0700) when missing.

        HomeError when it, or what is in its place, cannot be trusted.
        """
        chosen = path or os.environ.get("MYTHOS_HOME") or platformdirs.user_data_dir(APP, appauthor=False)
        keys = os.environ.get("MYTHOS_KEYS") or platformdirs.user_config_dir(KEYS_APP, appauthor=False)
        home = Home(Path(chosen).expanduser().resolve(), Path(keys).expanduser().resolve())
        private_directory(home.path)
        home._check_keys_outside()
        for name in ("weights", "cache"):
            private_directory(home.path / name)
        return home

    def weights_dir(self, root: str) -> Path:
        """The directory of the weights with this root (it need not exist)."""
        if not is_root(root):
            raise HomeError("a weights root is 64 hex digits")
        return self.path / "weights" / root

    @property
    def database(self) -> Path:
        return self.path / "mythos.db"

    @property
    def lock_file(self) -> Path:
        """Held while the database is opened."""
        return self.path / "mythos.lock"

    @property
    def session_file(self) -> Path:
        return self.path / "up.json"

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    @property
    def keys_dir(self) -> Path:
        """The directory of private keys, created (0700) when missing. HomeError when not private."""
        self._check_keys_outside()
        private_directory(self.keys)
        return self.keys

    def _check_keys_outside(self) -> None:
        # A backup or a copy of the home must not carry the keys. `samefile` sees through bind mounts and
        # file systems that fold case, where comparing paths does not; a symlink may be newer than `keys`.
        keys = self.keys.resolve()
        for place in (keys, *keys.parents):
            if place == self.path or (place.exists() and place.samefile(self.path)):
                raise HomeError(
                    f"the key directory {self.keys} lies inside the data directory {self.path}",
                    "Set MYTHOS_KEYS to a directory outside MYTHOS_HOME.",
                )


def private_directory(path: Path) -> None:
    """Make `path` (0700), or check that it is a directory of ours that nobody else can enter.

    An empty directory of ours is closed (nothing in it can have been read); any other open one is refused.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        info = path.stat()
    except OSError as error:
        raise HomeError(f"cannot make {path}: {error.strerror}", "Name another directory.") from error
    if not stat.S_ISDIR(info.st_mode):
        raise HomeError(f"{path} is not a directory", "Move it away, or name another directory.")
    if info.st_uid != os.geteuid():
        raise HomeError(f"{path} belongs to another user", "Name a directory of your own.")
    if info.st_mode & 0o077:
        if any(path.iterdir()):
            raise _open_to_others(path, info.st_mode, "chmod 700")
        path.chmod(0o700)


def _open_to_others(path: Path, mode: int, cure: str) -> HomeError:
    return HomeError(f"{path} is open to other users (mode {stat.S_IMODE(mode):04o})", f"{cure} {path}")


def read_private(path: Path) -> bytes:
    """The bytes of a file of ours that nobody else can read (0600, no symlink).

    FileNotFoundError when it is missing, HomeError when it is not private.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait
    except FileNotFoundError:
        raise
    except OSError as error:
        raise HomeError(f"cannot read {path}: {error.strerror}", f"ls -l {path}") from error
    try:
        info = os.fstat(file)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid():
            raise HomeError(f"{path} is not a file of yours", "Move it away.")
        if info.st_mode & 0o077:
            raise _open_to_others(path, info.st_mode, "chmod 600")
        with os.fdopen(file, "rb", closefd=False) as handle:
            return handle.read()
    finally:
        os.close(file)


def write_private(path: Path, data: bytes, replace: bool) -> None:
    """Write a 0600 file so that a reader sees all of it or none. FileExistsError when `replace` is False."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(6).hex()}")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(file, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(file)
        if replace:
            os.replace(draft, path)
        else:
            os.link(draft, path)  # fails when the name is taken, also by another process this instant
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        draft.unlink(missing_ok=True)
