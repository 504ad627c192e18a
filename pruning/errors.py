"""Errors of the pruning side, all under the project's one root.

SecateurError
└── PruningError
    ├── ConfigError              a recipe or an option that cannot be used
    ├── DataError                a dataset or file that is missing, malformed, or does not fit the task
    ├── CheckpointError          a model that cannot be found, read, or is not what its manifest says
    ├── UnsupportedModelError    a model whose family has no file in `families/`
    ├── UnreachableTargetError   a target that no mask can reach; the message says what can be
    ├── NothingPrunedError       a run that would finish without removing anything
    ├── ParityError              an exported graph whose outputs differ from torch
    └── StorageError             an output that could not be written whole
"""

from service.errors import SecateurError


class PruningError(SecateurError):
    """Root of what the pruning side raises on purpose."""


class ConfigError(PruningError):
    """A recipe or an option cannot be used as it stands."""


class DataError(PruningError):
    """A dataset or a file is missing, malformed, or does not fit the task."""


class CheckpointError(PruningError):
    """A model cannot be found or read, or is not what its manifest says."""


class UnsupportedModelError(PruningError):
    """No file in `families/` knows this kind of model."""


class UnreachableTargetError(PruningError):
    """No mask reaches the target; the message says what can be reached."""


class NothingPrunedError(PruningError):
    """The run would finish without having removed anything."""


class ParityError(PruningError):
    """An exported graph gives other outputs than the torch model."""


class StorageError(PruningError):
    """An output could not be written whole; nothing was left half written."""
