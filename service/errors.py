"""Every error that Secateur raises on purpose.

    SecateurError
    ├── ArtifactError          an artifact's folder or manifest is not what it says it is
    │   ├── SchemaError        its manifest is of a schema that this version cannot read
    │   └── GoldenError        its outputs on this machine differ from the recorded ones
    ├── RequestError           a request that cannot be answered as it stands
    ├── OverloadedError        too much is waiting already
    ├── DeadlineError          the time that the client gave is over
    ├── GoneError              the client left
    ├── StoppedError           no more work is taken in
    └── SettingsError          a setting that cannot be used

Each message is one line: what was wrong, what was expected, what to do. Nothing here knows HTTP.
"""


class SecateurError(Exception):
    """Root of the tree; catching it catches what Secateur raises on purpose and nothing else."""


class ArtifactError(SecateurError):
    """An artifact cannot be used: a file is missing, altered, or outside its folder."""


class SchemaError(ArtifactError):
    """The manifest's schema version or its fields cannot be read by this version."""


class GoldenError(ArtifactError):
    """The recorded golden inputs do not give the recorded outputs on this machine."""


class RequestError(SecateurError):
    """A request is well-formed but cannot be answered: empty text, or a question longer than the window."""


class OverloadedError(SecateurError):
    """A request is refused because too much is waiting; trying again later may help."""


class DeadlineError(SecateurError):
    """A request's time was over before its work was done."""


class GoneError(SecateurError):
    """A request was dropped because nobody waits for its answer any more."""


class StoppedError(SecateurError):
    """No more work is taken in: the service is shutting down."""


class SettingsError(SecateurError):
    """A setting has a value that cannot be used."""
