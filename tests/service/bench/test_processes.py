"""What processes used, read from a `/proc` that a test has written, and from the real one."""

import os
import time
from pathlib import Path

import pytest

from service.bench import processes


def _process(proc: Path, pid: int, *, session: int, user: int = 0, system: int = 0, pages: int = 0) -> None:
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    fields = ["S", "1", str(pid), str(session), *["0"] * 7, str(user), str(system), *["0"] * 30]
    (folder / "stat").write_text(f"{pid} (a (strange) name) {' '.join(fields)}\n")
    (folder / "statm").write_text(f"999 {pages} 1 1 0 1 0\n")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Three processes, two of one session, beside what is no process."""
    (tmp_path / "sys").mkdir()
    (tmp_path / "stat").write_text("cpu  10 0 20 300 0 0 0 70 0 0\ncpu0 1 2 3\n")
    _process(tmp_path, 7, session=7, user=100, system=50, pages=3)
    _process(tmp_path, 8, session=7, user=50, pages=1)
    _process(tmp_path, 9, session=9, user=999)
    return tmp_path


def test_members_of_a_session_are_found(proc):
    """A server's processes are those of its session, whatever their names."""
    assert processes.members(7, proc) == [7, 8]


def test_times_and_memory_are_added_up(proc):
    """User and system time of all; a process that is gone counts nothing."""
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    assert processes.cpu_seconds([7, 8, 12345], proc) == pytest.approx(200 / ticks)
    assert processes.resident_bytes([7, 8, 12345], proc) == 4 * page


def test_stolen_time_is_the_eighth_figure(proc):
    """The hypervisor's share is read, and is 0 where nothing says it."""
    assert processes.stolen_seconds(proc) == pytest.approx(70 / os.sysconf("SC_CLK_TCK"))
    assert processes.stolen_seconds(proc / "sys") == 0.0


@pytest.mark.skipif(not processes.is_readable(), reason="reads /proc")
def test_this_process_has_used_what_it_says():
    """The real files are read as they are written."""
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    assert processes.cpu_seconds([os.getpid()]) == pytest.approx(time.process_time(), abs=0.05)
    assert processes.resident_bytes([os.getpid()]) > 1_000_000
    assert os.getpid() in processes.members(os.getsid(0))
