"""Every error that Secateur raises on purpose.

    SecateurError
    ├── ArtifactError          an artifact's folder or manifest is not what it says it is
    │   ├── SchemaError        its manifest is of a schema that this version cannot read
    │   └── GoldenError        its outputs on this machine differ from the recorded ones
    ├── RequestError           a request that cannot be answered as it stands
    │   ├── MalformedError     it cannot be read: not JSON, or a header that is none
    │   ├── FormatError        it is in a format that is not read here
    │   └── TooLargeError      it is larger than this server takes
    ├── UnauthorizedError      a key is missing, unknown, or does not allow this
    ├── NotFoundError          there is no such model or variant
    ├── RateLimitError         a key has used up what it may for now
    ├── OverloadedError        too much is waiting already
    ├── DeadlineError          the time that the client gave is over
    ├── GoneError              the client left
    ├── StoppedError           no more work is taken in
    ├── StuckError             a runner did not come back with the answer
    ├── RuntimeUnavailableError  what a runtime or a device needs is not here
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
    """A request is well-formed but cannot be answered: empty text, or a question longer than the window.

    Attributes:
        field: name of the request's field that is wrong, if it is one.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class MalformedError(RequestError):
    """A request cannot be read at all."""


class FormatError(RequestError):
    """A request is in a format or an encoding that is not read here."""


class TooLargeError(RequestError):
    """A request is larger than this server takes: bytes, texts, characters, windows or tokens."""


class UnauthorizedError(SecateurError):
    """The key is missing or unknown, or does not allow this."""


class NotFoundError(SecateurError):
    """There is no such model or variant, or none for this task."""


class RateLimitError(SecateurError):
    """A key has used up its tokens; `retry_after` says in how many seconds it may ask again."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OverloadedError(SecateurError):
    """A request is refused because too much is waiting; trying again in `retry_after` seconds may help."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(SecateurError):
    """A request's time was over before its work was done."""


class GoneError(SecateurError):
    """A request was dropped because nobody waits for its answer any more."""


class StoppedError(SecateurError):
    """No more work is taken in: the service is shutting down."""


class ReloadError(SecateurError):
    """What is in the models folder cannot be served; what was served still is."""


class StuckError(SecateurError):
    """The runner that had the work did not come back, or died; another one took its place."""


class RuntimeUnavailableError(SecateurError):
    """A runtime's package is not installed, or the device that was asked for cannot be used."""


class SettingsError(SecateurError):
    """A setting has a value that cannot be used."""


class BenchError(SecateurError):
    """A benchmark cannot be made, or what it measured is void."""
