"""What processes have used, read from Linux's `/proc`: processor time, memory, and who belongs to a server.

Only the standard library: the load generator imports this too, and must stay small.
"""

import os
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Positions among the fields of /proc/<pid>/stat that follow the command's name.
_SESSION, _USER_TICKS, _SYSTEM_TICKS = 3, 11, 12


def is_readable(proc: Path = PROC) -> bool:
    """Whether there is anything to read: on Linux only."""
    return (proc / "self" / "stat").is_file()


def cpu_seconds(pids: Iterable[int], proc: Path = PROC) -> float:
    """Processor time, user and system, of all these processes together; one that is gone counts 0."""
    return sum(_ticks(pid, proc) for pid in pids) / _TICKS_PER_SECOND


def resident_bytes(pids: Iterable[int], proc: Path = PROC) -> int:
    """Memory that these processes hold now; what they share is counted for each."""
    return sum(_pages(pid, proc) for pid in pids) * _PAGE_BYTES


def members(session: int, proc: Path = PROC) -> list[int]:
    """Processes of a session: a server that was started in a session of its own, and whatever it has started."""
    pids = (int(entry.name) for entry in proc.iterdir() if entry.name.isdigit())
    return sorted(pid for pid in pids if _fields(pid, proc)[_SESSION : _SESSION + 1] == [str(session)])


def stolen_seconds(proc: Path = PROC) -> float:
    """Processor time that the hypervisor kept from this machine since it started."""
    words = _read(proc / "stat").split("\n", 1)[0].split()
    return int(words[8]) / _TICKS_PER_SECOND if len(words) > 8 else 0.0


def _ticks(pid: int, proc: Path) -> int:
    fields = _fields(pid, proc)
    return int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS]) if fields else 0


def _pages(pid: int, proc: Path) -> int:
    words = _read(proc / str(pid) / "statm").split()
    return int(words[1]) if words else 0


def _fields(pid: int, proc: Path) -> list[str]:
    """Fields after the command's name, which stands in parentheses and may itself hold spaces and parentheses."""
    return _read(proc / str(pid) / "stat").rpartition(")")[2].split()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
