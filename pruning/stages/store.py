"""The stages of a run on disk: each output is kept with a key of what it was made from, and made again only when that changed.

A stage writes into a fresh folder that takes its place when complete, and its record is written after it: a run that was interrupted
finds whole outputs with records, and makes the rest. Of several processes the main one does that, and the others read it.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pruning.memory import peak_memory_bytes
from pruning.processes import from_main
from pruning.storage import write_text_atomic, written

logger = logging.getLogger(__name__)

RECORDS = ".stages"
WORK = ".work"


@dataclass(frozen=True)
class StageRecord:
    """What a stage left behind.

    Attributes:
        name: The stage; its output is the folder of that name.
        key: Hash of everything the output depends on.
        seconds: Wall time that making it took.
        peak_memory_bytes: Peak resident memory of the process when it was done.
        details: What later stages and the report want to know, JSON-able.
        reused: Whether an earlier run made it.
    """

    name: str
    key: str
    seconds: float
    peak_memory_bytes: int
    details: dict[str, Any] = field(default_factory=dict)
    reused: bool = False


class Stages:
    """The stages of one run's folder, in the order in which they were asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: dict[str, StageRecord] = {}

    def path(self, name: str) -> Path:
        """Where the output of a stage is."""
        return self.folder / name

    def work(self, name: str, inputs: Mapping[str, Any]) -> Path:
        """Where a long stage keeps what it resumes from until it is done; other inputs have another folder."""
        return self.folder / WORK / _key(name, inputs)[:16]

    def get(
        self, name: str, inputs: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any] | None], *, together: bool = False
    ) -> StageRecord:
        """The record of a stage whose output is there and was made from these inputs; it is made if need be.

        Args:
            name: Relative folder of the output.
            inputs: JSON-able: the settings that matter and the keys of the stages it builds on.
            make: Writes the output into the folder it is given, and may return details to keep.
            together: Whether `make` trains: then all processes take part, and what is written by others than the main one is thrown away.
        """
        key = _key(name, inputs)
        record = from_main(lambda: self._kept(name, key))
        if record is None:
            take_part = (lambda: self._thrown_away(make)) if together else None
            record = from_main(lambda: self._made(name, key, make, work=self.work(name, inputs)), meanwhile=take_part)
        self.records[name] = record
        return record

    def _kept(self, name: str, key: str) -> StageRecord | None:
        found = self._read(name)
        if found is None or found.key != key or not self.path(name).is_dir():
            return None
        logger.info("stage=%s reused", name)
        return replace(found, reused=True)

    def _made(self, name: str, key: str, make: Callable[[Path], Mapping[str, Any] | None], *, work: Path) -> StageRecord:
        logger.info("stage=%s started", name)
        started = time.perf_counter()
        with written(self.path(name)) as partial:
            details = dict(make(partial) or {})
        record = StageRecord(name, key, time.perf_counter() - started, peak_memory_bytes(), details)
        write_text_atomic(self._record_path(name), json.dumps(asdict(record), indent=1))
        shutil.rmtree(work, ignore_errors=True)
        logger.info("stage=%s done seconds=%.1f", name, record.seconds)
        return record

    def _thrown_away(self, make: Callable[[Path], object]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self.folder) as folder:
            make(Path(folder))

    def _record_path(self, name: str) -> Path:
        return self.folder / RECORDS / f"{name.replace('/', '__')}.json"

    def _read(self, name: str) -> StageRecord | None:
        try:
            return StageRecord(**json.loads(self._record_path(name).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def _key(name: str, inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([name, inputs], sort_keys=True, default=str).encode()).hexdigest()
