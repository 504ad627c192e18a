"""The processor that this process may use: its name, its instruction sets, and how many cores are really ours.

A container sees all of the host's cores; what it may use is bounded by the affinity mask and by the cgroup's CPU quota.
"""

import logging
import os
import platform
import threading
from pathlib import Path

NICE = 5

_log = logging.getLogger(__name__)

# Instruction sets that change which kernels an 8-bit or 16-bit matrix product uses.
ISA_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16", "sve")


def core_count(root: Path = Path("/")) -> int:
    """Cores that this process may keep busy: the affinity mask, cut by the cgroup's quota; at least 1."""
    affinity, quota = affinity_count(), cgroup_quota(root)
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def affinity_count() -> int:
    """Cores that the affinity mask leaves to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of CPU time that the cgroup (v2 or v1) grants this process; None without a limit."""
    quotas = [quota for folder in _cgroup_folders(root) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def cpu_name(root: Path = Path("/")) -> str:
    """Model name of the processor."""
    return _cpuinfo(root).get("model name") or platform.processor() or platform.machine() or "unknown"


def instruction_sets(root: Path = Path("/")) -> tuple[str, ...]:
    """The instruction sets of `ISA_FLAGS` that the processor has, in that order."""
    info = _cpuinfo(root)
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return tuple(flag for flag in ISA_FLAGS if flag in flags)


def lower_priority() -> None:
    """Make this thread nicer than the event loop, where threads have a priority of their own (Linux)."""
    if hasattr(os, "setpriority"):
        try:
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + NICE))
        except OSError as error:
            _log.warning("runners keep the priority of the event loop: %s", error)


def _cgroup_folders(root: Path) -> list[Path]:
    """Folders of the process's cgroups that may limit its CPU, from its own up to the mount's root."""
    folders = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controllers
            own = mount / path.lstrip("/")
            folders += [own, *(parent for parent in own.parents if parent.is_relative_to(mount))]
    return folders


def _quota(folder: Path) -> float | None:
    limit, _, period = _read(folder / "cpu.max").strip().partition(" ")
    if not limit:
        limit = _read(folder / "cpu.cfs_quota_us").strip()
        period = _read(folder / "cpu.cfs_period_us").strip()
    if not limit.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    return int(limit) / int(period)


def _cpuinfo(root: Path) -> dict[str, str]:
    """Fields of the first processor."""
    first = _read(root / "proc/cpuinfo").split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
