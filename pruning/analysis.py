"""What fine-pruning did to each matrix, kept beside a masked checkpoint."""

from pathlib import Path

from pruning.masking import Masks


def save_masks(masks: Masks, folder: Path) -> None:
    """Write the masks."""
