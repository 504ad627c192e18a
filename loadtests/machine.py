"""The machine under a load: which cores are whose, who else used it, and whether what was measured counts.

On few cores the generator and the service would take time from each other, and a faster service would be hindered more: there each has
cores of its own, the same ones for every variant. A measurement in which requests were sent late, or for which others took the
processor, is void.
"""

import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from loadtests.statistics import Real

FEW_CORES = 4
MOST_LAG_MS = 5.0
MOST_OTHERS = 0.05
MOST_STOLEN = 0.02
MOST_GENERATOR = 0.7
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16")


@dataclass(frozen=True)
class Cores:
    """Numbers of the cores that the service and the generator may use; they are apart where `pinned`."""

    service: tuple[int, ...]
    generator: tuple[int, ...]
    pinned: bool

    def __str__(self) -> str:
        if not self.pinned:
            return f"the service and the generator share {len(self.service)} core{'s' * (len(self.service) != 1)}"
        return f"core {_listed(self.service)} for the service, core {_listed(self.generator)} for the generator, for every variant"


@dataclass(frozen=True)
class Reading:
    """Processor time since the machine was started, in seconds: of the cores that we have, busy, stolen; and of our processes alone."""

    total: float
    busy: float
    stolen: float
    ours: float


@dataclass(frozen=True)
class Conditions:
    """Under which something was measured.

    Attributes:
        lag_p99_ms: how late the requests of open loops were sent, to the variant for which that was worst; NaN of none.
        others_share: of our cores, taken by processes that have nothing to do with it; NaN where ours are not known.
        stolen_share: of our cores, taken by the hypervisor.
        generator_share: of one core, taken by making load, for the variant for which that was most; NaN of none.
    """

    lag_p99_ms: Real
    others_share: Real
    stolen_share: float
    generator_share: Real

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why what was measured is void; nothing where it counts."""
        found = (
            (self.lag_p99_ms > MOST_LAG_MS, f"requests were sent {self.lag_p99_ms:.1f} ms late (p99; at most {MOST_LAG_MS:g} ms)"),
            (self.others_share > MOST_OTHERS, f"other processes took {self.others_share:.1%} of the machine (at most {MOST_OTHERS:.0%})"),
            (
                self.stolen_share > MOST_STOLEN,
                f"the hypervisor took {self.stolen_share:.1%} of the machine (steal; at most {MOST_STOLEN:.0%})",
            ),
            (self.generator_share > MOST_GENERATOR, f"the generator was busy {self.generator_share:.0%} (at most {MOST_GENERATOR:.0%})"),
        )
        return tuple(reason for is_so, reason in found if is_so)


def available_cores() -> tuple[int, ...]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def share_cores(cores: Sequence[int]) -> Cores:
    """On 2 to 4 cores the last is the generator's and the others are the service's; with more, or one, they share all."""
    if 1 < len(cores) <= FEW_CORES and hasattr(os, "sched_setaffinity"):
        return Cores(tuple(cores[:-1]), (cores[-1],), pinned=True)
    return Cores(tuple(cores), tuple(cores), pinned=False)


@contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """This process, and what it starts in the block, on these cores; what was started stays there."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def read(pids: Iterable[int], cores: Iterable[int]) -> Reading:
    """Now, on those cores; `pids` are ours, and all that they have started is ours, too."""
    every = psutil.cpu_times(percpu=True)
    times = [every[core] for core in cores if core < len(every)]
    stolen = sum(getattr(each, "steal", 0.0) for each in times)
    idle = sum(each.idle + getattr(each, "iowait", 0.0) for each in times)
    total = sum(sum(each) - getattr(each, "guest", 0.0) - getattr(each, "guest_nice", 0.0) for each in times)
    return Reading(total, total - idle - stolen, stolen, sum(map(_seconds, family(pids))))


def others_now(seconds: float = 1.0) -> float:
    """Share of our cores that processes take which have nothing to do with this one."""
    pids, cores = [os.getpid()], available_cores()
    before = read(pids, cores)
    time.sleep(seconds)
    return conditions(before, read(pids, cores), lag_p99_ms=0.0, generator_share=0.0).others_share


def conditions(before: Reading, after: Reading, *, lag_p99_ms: float, generator_share: float) -> Conditions:
    """Of what was measured between two readings."""
    total = max(after.total - before.total, 1e-9)
    others = (after.busy - before.busy) - (after.ours - before.ours)
    return Conditions(lag_p99_ms, max(0.0, others / total), (after.stolen - before.stolen) / total, generator_share)


def cores_with(pids: Iterable[int]) -> tuple[int, ...]:
    """Numbers of the cores that this process or one of those may use."""
    return tuple(sorted({*available_cores(), *cores_of(pids)}))


def cores_of(pids: Iterable[int]) -> tuple[int, ...]:
    """Numbers of the cores that one of those processes may use."""
    found = set[int]()
    for pid in pids:
        with suppress(psutil.Error, AttributeError):  # without affinity all cores are available
            found.update(psutil.Process(pid).cpu_affinity())
    return tuple(sorted(found))


def family(pids: Iterable[int]) -> set[int]:
    """These processes and all that they have started."""
    found = set(pids)
    for pid in tuple(found):
        with suppress(psutil.Error):
            found.update(child.pid for child in psutil.Process(pid).children(recursive=True))
    return found


def is_running(pid: int) -> bool:
    """Whether a process goes on."""
    with suppress(psutil.Error):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def resident_bytes(pid: int | None) -> int | None:
    """Memory of a process and all that it has started; None where that cannot be told."""
    with suppress(psutil.Error):
        return sum(psutil.Process(each).memory_info().rss for each in family([pid])) if pid is not None else None
    return None


def started_at(pid: int) -> float | None:
    """When a process began, in seconds of the epoch; None where that cannot be told."""
    with suppress(psutil.Error):
        return float(psutil.Process(pid).create_time())
    return None


def listeners(port: int) -> tuple[int, ...]:
    """Processes of this machine that listen on a port; none where that cannot be told."""
    with suppress(psutil.Error):
        found = (each.pid for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN and each.laddr.port == port)
        return tuple(sorted({pid for pid in found if pid is not None}))
    return ()


def processor() -> str:
    """Model name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def instruction_sets() -> tuple[str, ...]:
    """Those that matter to matrix products; none where that cannot be told."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return tuple(name for name in INSTRUCTION_SETS if name in flags)


def _cpuinfo(name: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.partition(":")[0].strip() == name), "")


def _seconds(pid: int) -> float:
    """Of a process, and of those of its children that have ended."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system + getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0))


def _listed(cores: Sequence[int]) -> str:
    return ", ".join(map(str, cores))
