"""Every error that load tests raise on purpose; each message is one line: what was wrong, what was expected, what to do."""


class LoadTestError(Exception):
    """Root of the tree; catching it catches what load tests raise on purpose and nothing else."""


class ServiceError(LoadTestError):
    """The service did not start, does not answer, or does not serve what is to be measured."""


class TextsError(LoadTestError):
    """A file of texts cannot be read, or a length cannot be met."""


class MeasurementError(LoadTestError):
    """A measurement came to nothing: the generator ended, or nothing was answered."""
