"""The append-only journal of one run: a header that binds it, one line for each result, a last line.

What was acknowledged survives any kill; a line cut short by one is dropped and its item run again.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mythos.evaluate.suite import Result
from mythos.records.canonical import canonical
from mythos.records.errors import MythosError
from mythos.records.evidence import Outcome, Sample


class JournalError(MythosError):
    """The journal is of another run, in use, or damaged."""


class Journal:
    """Open one with the header of the run that is to be continued, or begun. JournalError otherwise."""

    def __init__(self, path: Path, header: Mapping[str, Any], started: float) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise JournalError(f"{path.name} is being written by another run.", "Wait for it.") from None
        self.samples: dict[str, Sample] = {}
        self.ended: float | None = None
        self.isolation: set[str] = set()
        try:
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            os.ftruncate(self._file, len(whole))
            if whole:
                self._read(whole, header)
            else:
                self.started = started
                self._write([{"header": dict(header), "started": started}])
        except BaseException:
            os.close(self._file)
            raise

    def _read(self, data: bytes, header: Mapping[str, Any]) -> None:
        try:
            first, *rest = [json.loads(line) for line in data.splitlines()]
            if canonical(first["header"]) != canonical(dict(header)):
                raise JournalError(
                    f"{self.path} is of another run (weights, suite or code have changed).",
                    "Make a new plan, or move the file away.",
                )
            self.started = float(first["started"])
            for row in rest:
                if "ended" in row:
                    self.ended = float(row["ended"])
                    continue
                outcome = Outcome(row["outcome"])
                self._keep(Sample(row["id"], row["cluster"], outcome, row["elicitation"]), row["transcript"])
        except (ValueError, KeyError, TypeError) as error:
            raise JournalError(f"{self.path} is damaged ({error}).", "Move it away.") from None

    def _keep(self, sample: Sample, transcript: Mapping[str, Any]) -> None:
        if sample.id in self.samples:
            raise JournalError(f"{self.path} holds {sample.id} twice.", "Move it away.")
        self.samples[sample.id] = sample
        if transcript.get("isolation"):
            self.isolation.add(transcript["isolation"])

    def add(self, results: Sequence[Result]) -> None:
        """Results are on disk when this returns."""
        rows = []
        for result in results:
            self._keep(result.sample, result.transcript)
            s = result.sample
            rows.append(
                {
                    "id": s.id,
                    "cluster": s.cluster,
                    "outcome": s.outcome.value,
                    "elicitation": s.elicitation,
                    "transcript": dict(result.transcript),
                }
            )
        self._write(rows)

    def end(self, now: float) -> None:
        if self.ended is None:
            self.ended = now
            self._write([{"ended": now}])

    def sha256(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def close(self) -> None:
        os.close(self._file)

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        data = b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows)
        while data:
            data = data[os.write(self._file, data) :]
        os.fsync(self._file)
