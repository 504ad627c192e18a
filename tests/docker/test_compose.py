"""The stack: confined, bounded, pinned, and stopped no sooner than it has drained."""

import re

import pytest
import yaml

from service.settings import Settings
from tests.docker.files import DOCKER, ROOT, parsed, services

each_container = pytest.mark.parametrize("name", services())


def seconds(text: str) -> float:
    """A duration such as 12s."""
    return float(text.removesuffix("s"))


def test_the_stack_starts_from_the_root():
    """The file in the root includes the other one, whose paths are counted from the root."""
    [included] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["include"]
    assert (ROOT / included["path"]).samefile(DOCKER / "compose.yaml")
    assert included["project_directory"] == "."
    folders = [volume.split(":")[0] for each in services().values() for volume in each.get("volumes", ()) if volume.startswith(".")]
    files = [each["build"]["dockerfile"] for each in services().values() if "build" in each]
    assert [path for path in folders + files if not (ROOT / path).exists()] == []


def test_load_tests_are_asked_for():
    """Locust and the comparison start with their profile alone."""
    assert {name for name, each in services().items() if each.get("profiles") == ["loadtest"]} == {"locust", "compare"}
    assert all("profiles" not in services()[name] for name in ("service", "prometheus", "grafana"))


@each_container
def test_it_is_confined(name: str):
    """Nothing can be written but what is said, no capability is left, and none can be gained."""
    container = services()[name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in container
    assert "network_mode" not in container
    assert not [volume for volume in container.get("volumes", ()) if volume.startswith("./") and not volume.endswith(":ro")]


@each_container
def test_it_is_bounded(name: str):
    """Processor, memory and processes have limits."""
    assert {"cpus", "mem_limit", "pids_limit"} <= services()[name].keys()


@each_container
def test_it_is_pinned_and_no_root(name: str):
    """The image has a version, and its user is not root: by compose, or by the Dockerfile of its build."""
    container = services()[name]
    assert re.search(r":v?\d+\.\d+\.\d+$", container["image"])
    assert "build" in container or not str(container["user"]).startswith("0")


@each_container
def test_its_port_is_open_to_this_machine_alone(name: str):
    """What is published is published on the loopback address."""
    assert all(str(port).startswith("127.0.0.1:") for port in services()[name].get("ports", ()))


def test_nothing_is_secret():
    """No password, key or token is set; who looks at dashboards may look and nothing else."""
    variables = [variable for each in services().values() for variable in each.get("environment", {})]
    assert not [name for name in variables if re.search(r"PASSWORD|SECRET|KEY|TOKEN", name)]
    grafana = services()["grafana"]["environment"]
    assert grafana["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert grafana["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"


def test_stopping_waits_for_what_is_in_flight():
    """The grace period is longer than the drain delay and the drain together."""
    service = services()["service"]
    environment = service["environment"]
    drain = float(environment["SECATEUR_DRAIN_DELAY_S"]) + float(environment["SECATEUR_DRAIN_S"])
    assert seconds(service["stop_grace_period"]) >= drain + 2


def test_settings_of_the_service_exist():
    """Every variable that is set is one that the service reads."""
    names = {f"SECATEUR_{name.upper()}" for name in Settings.model_fields}
    assert services()["service"]["environment"].keys() <= names


def test_every_variable_is_documented():
    """Whatever compose takes from outside is named in docker/README.md."""
    text = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    readme = (DOCKER / "README.md").read_text(encoding="utf-8")
    assert [name for name in set(re.findall(r"\$\{([A-Z_]+)", text)) if f"`{name}`" not in readme] == []


def test_prometheus_asks_what_runs():
    """Every target but itself is a service of the stack, at the port on which that one answers."""
    jobs = [job for job in parsed("prometheus/prometheus.yml")["scrape_configs"] if "dns_sd_configs" in job]
    targets = {name: found["port"] for job in jobs for found in job["dns_sd_configs"] for name in found["names"]}
    assert targets == {"service": 8000, "locust": 9101, "compare": 9101}
    assert all(str(targets[name]) in str(services()[name]["command"]) for name in ("locust", "compare"))
