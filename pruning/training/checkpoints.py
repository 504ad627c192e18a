"""Which checkpoint a training goes on from; one whose writing was cut short is passed over."""

import json
import shutil
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

STATE_NAME = "trainer_state.json"


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint in `folder` that was written to its end; newer ones that were cut short are removed."""
    while folder.is_dir():
        newest = get_last_checkpoint(str(folder))
        if newest is None:
            return None
        if _is_whole(Path(newest)):
            return str(newest)
        shutil.rmtree(newest)
    return None


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / STATE_NAME).read_text(encoding="utf-8"))  # the last file that the Trainer writes
    except (OSError, json.JSONDecodeError):
        return False
    return True
