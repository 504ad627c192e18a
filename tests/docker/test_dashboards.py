"""The dashboards and alerts: what Grafana and Prometheus read is what the code makes, and asks for metrics that exist."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client import generate_latest

from loadtests.exporter import Exporter
from service.app import create_app
from service.routes import ENDPOINTS
from service.settings import Settings
from tests.docker.files import DASHBOARDS, DOCKER, dashboard, parsed, script
from tests.service.http.support import write_models

PROMETHEUS_OWN = {"up", "ALERTS", "scrape_duration_seconds"}

each_dashboard = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)


def queries() -> list[str]:
    """Of all panels and alerts."""
    panels = [target["expr"] for path in DASHBOARDS for panel in dashboard(path)["panels"] for target in panel["targets"]]
    return panels + [rule["expr"] for rule in rules()]


def rules() -> list[dict]:
    """The alerts."""
    return [rule for group in parsed("prometheus/rules.yml")["groups"] for rule in group["rules"]]


def metrics_of(query: str) -> set[str]:
    """Names of metrics in a query: words that are no function, label, keyword or text."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(by|on) \([^)]*\)', " ", query)
    words = re.findall(r"\b[a-zA-Z_]{2,}\b(?! ?\()", bare)
    return set(words) - {"by", "on", "or", "group_right", "sum", "min", "max", "count", "le"}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Metrics of the service and of the load tests, by asking them."""
    models = write_models(tmp_path_factory.mktemp("models"))
    with TestClient(create_app(Settings(models=models))) as client:
        text = client.get("/metrics").text
    text += generate_latest(Exporter().registry).decode()
    families = re.findall(r"^# TYPE (\S+) (\S+)", text, re.MULTILINE)
    endings = {"histogram": ("_bucket", "_sum", "_count")}
    return {name + ending for name, kind in families for ending in endings.get(kind, ("",))}


def test_files_are_what_the_code_makes():
    """`python docker/grafana/dashboards.py` has been run since the last change."""
    code = script("grafana/dashboards.py")
    assert {path.stem: path.read_text(encoding="utf-8") for path in DASHBOARDS} == {each.name: code.text(each) for each in code.DASHBOARDS}


@each_dashboard
def test_every_panel_can_be_read(path: Path):
    """A panel has a title, a description, a unit and queries, and asks the datasource that is provisioned."""
    [source] = parsed("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    for panel in dashboard(path)["panels"]:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        assert all(target["expr"] for target in panel["targets"])
        assert {each["datasource"]["uid"] for each in (panel, *panel["targets"])} == {source["uid"]}


@each_dashboard
def test_panels_do_not_overlap(path: Path):
    """Each place of the page belongs to one panel, and no panel leaves the page."""
    places = [panel["gridPos"] for panel in dashboard(path)["panels"]]
    taken = [(x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


def test_errors_are_told_by_variant():
    """So that a variant that fails is seen in the overview."""
    (panel,) = (panel for path in DASHBOARDS for panel in dashboard(path)["panels"] if panel["title"].startswith("Errors by task"))
    assert all("by (route, variant, code)" in target["expr"] for target in panel["targets"])


@each_dashboard
def test_variables_are_defined(path: Path):
    """A query uses no variable but the dashboard's own and Grafana's interval."""
    page = dashboard(path)
    defined = {each["name"] for each in page["templating"]["list"]}
    used = {name for panel in page["panels"] for target in panel["targets"] for name in re.findall(r"\$([a-zA-Z_]+)", target["expr"])}
    assert used <= defined | {"__rate_interval"}


def test_addresses_are_different():
    """Each dashboard has an address of its own, and Grafana finds the folder in which they are."""
    pages = [dashboard(path) for path in DASHBOARDS]
    assert len({page["uid"] for page in pages}) == len(pages) == 5
    [provider] = parsed("grafana/provisioning/dashboards/secateur.yaml")["providers"]
    assert provider["options"]["path"] in (DOCKER / "compose.yaml").read_text(encoding="utf-8")


def test_every_metric_exists(known: set[str]):
    """Panels and alerts ask for metrics that the service, the load tests or Prometheus have."""
    asked = {metric for query in queries() for metric in metrics_of(query)}
    assert len(asked) > 20
    assert asked - known - PROMETHEUS_OWN == set()


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_compares_a_query_with_a_number(rule: dict):
    """So that its query can be checked for data while the alert is silent; it says what is wrong, and how bad that is."""
    assert script("check_queries.py").compared(rule["expr"])
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"]["summary"]


def test_a_share_of_errors_begins_with_the_errors():
    """1 minus the share of good answers has no data where no answer was ever good: nothing would fire when all of them fail."""
    shares = [query for query in queries() if "secateur_requests_total" in query and " / " in query]
    assert [query for query in shares if re.search(r"1 - .*code!", query)] == []
    assert len([query for query in shares if re.search(r'code=~?"50.* or 0 \* ', query)]) == 4


def test_what_slow_answers_counts_is_every_task():
    """None goes without an objective, and what was refused does not count as quick."""
    (rule,) = (rule for rule in rules() if rule["alert"] == "SlowAnswers")
    slow, _, answered = rule["expr"].partition(" / ")
    bounded = "|".join(re.findall(r'route=~?"([^"]*)",le=', slow))
    assert set(bounded.split("|")) == {endpoint.path for endpoint in ENDPOINTS}
    assert "503" not in answered


def test_decoding_is_shown_where_nothing_is_decoded():
    """What only a model that generates counts is 0 without one, in each query that asks for it."""
    asked = [query for query in queries() if re.search(r'secateur_(decoder?_|first_token)|kind="generated"', query)]
    assert {"secateur_decoder_rows", "secateur_decoder_waiting", "secateur_tokens_total"} <= {
        name for each in asked for name in metrics_of(each)
    }
    assert [query for query in asked if not query.endswith(" or on () vector(0)")] == []


def test_cases_of_alerts_name_alerts_that_exist():
    """Each alert of shares of requests has a case in which it fires and one in which it does not."""
    cases = [case for test in parsed("prometheus/rules_test.yml")["tests"] for case in test["alert_rule_test"]]
    named = {outcome: {case["alertname"] for case in cases if bool(case["exp_alerts"]) is outcome} for outcome in (True, False)}
    assert named[True] == named[False] == {"Failing", "Shedding", "SlowAnswers"}
    assert named[True] <= {rule["alert"] for rule in rules()}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, of Prometheus, is not installed")
def test_alerts_fire_as_their_cases_say():
    """`promtool test rules`."""
    done = subprocess.run(["promtool", "test", "rules", DOCKER / "prometheus" / "rules_test.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
