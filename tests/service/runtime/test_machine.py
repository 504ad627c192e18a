"""Cores come from the affinity mask and the cgroup's quota, never from the host."""

import os
from pathlib import Path

import pytest

from service.runtime.machine import cgroup_quota, core_count, cpu_name, instruction_sets


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "200000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 2.0),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/job\n3:memory:/\n",
                "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({}, None),
    ],
    ids=["v2", "v2 without limit", "v2 limit of a parent", "v1", "v1 without limit", "no cgroup"],
)
def test_quota_of_the_cgroup(tmp_path, files, quota):
    """The tightest quota among the process's cgroup and its parents counts."""
    assert cgroup_quota(_write(tmp_path, files)) == quota


def test_cores_are_cut_by_the_quota_and_at_least_one(tmp_path):
    """Half a core's quota still leaves one core."""
    root = _write(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"})
    assert core_count(root) == 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity mask")
def test_cores_without_quota_are_those_of_the_affinity_mask(tmp_path):
    """Without a quota the affinity mask decides."""
    assert core_count(tmp_path) == len(os.sched_getaffinity(0))


def test_processor_is_described(tmp_path):
    """Name and instruction sets come from the first processor."""
    text = "processor : 0\nmodel name : Fast 9000\nflags : fpu avx2 amx_int8\n\nprocessor : 1\nmodel name : Other\n"
    root = _write(tmp_path, {"proc/cpuinfo": text})
    assert cpu_name(root) == "Fast 9000"
    assert instruction_sets(root) == ("avx2", "amx_int8")
