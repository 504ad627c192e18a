"""A service that is started ends with the block, however that ends."""

import os
import sys

import psutil
import pytest

from loadtests.client import Client
from loadtests.errors import ServiceError
from loadtests.machine import available_cores, listeners
from loadtests.servers import running, service_environment
from loadtests.texts import TASKS

FAKE = [sys.executable, "-m", "tests.loadtests.fake"]


def test_a_service_runs_on_its_cores_and_ends_with_the_block():
    """It answers inside; outside nobody listens, also when the block was interrupted."""
    one = available_cores()[:1]
    seen: list[psutil.Process] = []

    def interrupted() -> None:
        with running(FAKE, environment={}, cores=one) as server:
            assert Client(server.url).served(TASKS["qa"])
            seen.extend(psutil.Process(pid) for pid in listeners(int(server.url.rpartition(":")[2])))
            assert [process.cpu_affinity() for process in seen] == [list(one)]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not seen[0].is_running()
    assert available_cores() == tuple(sorted(os.sched_getaffinity(0)))


def test_a_service_that_ends_at_once_says_why():
    """Its last line is in the error."""
    command = [sys.executable, "-c", "import sys; sys.exit('no models here')"]
    with pytest.raises(ServiceError, match="no models here"), running(command, environment={}, cores=available_cores()):
        pass


def test_variants_and_runtime_are_settings_of_the_service():
    """As the service reads them."""
    found = service_environment("compact", runtime="openvino")
    assert found["SECATEUR_VARIANTS"] == '["compact"]'
    assert found["SECATEUR_RUNTIME"] == '{"*": "openvino"}'
