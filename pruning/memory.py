"""Peak memory of this process."""

import resource
import sys
from contextlib import suppress
from pathlib import Path


def forget_peak_memory() -> None:
    """Count the peak from now on, where the system can: else it is that of all that the process has done."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_bytes() -> int:
    """Peak resident memory of this process, since it was last forgotten."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
