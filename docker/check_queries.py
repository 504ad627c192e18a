"""Whether every panel and every alert has data: a short load on the running stack, then each query is asked of its Prometheus.

    docker compose --profile loadtest up --detach
    python docker/check_queries.py --locust http://localhost:8089

Texts come from the load tests (`pip install '.[loadtests]'`). Ends with 1 when a query has no data or cannot be read.
"""

import json
import math
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from loadtests.client import Client
from loadtests.errors import LoadTestError
from loadtests.lengths import parse_lengths
from loadtests.texts import TASKS, own_texts

DASHBOARDS = Path(__file__).parent / "grafana" / "dashboards"
LOAD_TEST = "loadtest"
INTERVAL = "1m"
SCRAPES_SECONDS = 12.0
BEGIN_SECONDS = 180.0
COMPARISON = re.compile(r"^(.*) (?:>|<|>=|<=|==|!=) (-?[0-9.e+]+)$", re.DOTALL)

_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Asked:
    """A query, and where it stands."""

    where: str
    query: str


@click.command()
@click.option("--service", default="http://localhost:8000", show_default=True, help="Where the service answers.")
@click.option("--prometheus", default="http://localhost:9090", show_default=True, help="The Prometheus that watches it.")
@click.option("--locust", help="Locust's page; without it the dashboard of load tests is left out.")
@click.option("--seconds", default=30.0, show_default=True, help="How long the load is.")
def main(service: str, prometheus: str, locust: str | None, seconds: float) -> None:
    """Load the stack a little, and ask every query of the dashboards and of the alerts."""
    left_out = set() if locust else {LOAD_TEST}
    try:
        if locust:
            start_users(locust)
        counted = load(service, seconds)
        time.sleep(SCRAPES_SECONDS)
        asked = [*panels(DASHBOARDS, prometheus, left_out), *alerts(prometheus)]
        empty = [(each, why) for each in asked if (why := problem(prometheus, each.query))]
        if locust:
            fetch(f"{locust}/stop", b"")
    except (OSError, ValueError, LoadTestError) as error:
        raise click.ClickException(str(error)) from error
    for each, why in empty:
        click.echo(f"{each.where}: {why}: {each.query}")
    click.echo(f"{len(asked) - len(empty)} of {len(asked)} queries have data, after {counted} requests", err=True)
    if empty:
        raise click.exceptions.Exit(1)


def load(service: str, seconds: float) -> int:
    """Requests one after another to every variant of every task, some of them wrong and some too late; how many there were."""
    client = Client(service)
    good = list(requests(client))
    path, body = good[0]
    ends, count = time.monotonic() + seconds, 0
    while time.monotonic() < ends or count == 0:
        for each in good:
            client.post(*each)
        post(f"{service}{path}", "{}", {})
        post(f"{service}{path}", body, {"X-Request-Timeout-Ms": "1"})
        count += len(good) + 2
    return count


def requests(client: Client) -> Iterator[tuple[str, str]]:
    """Paths and bodies: a short text for each variant of each task that is served."""
    for task in TASKS.values():
        for row in client.served(task):
            which = {"model": row["model"], "variant": row["variant"]}
            texts = own_texts(task, parse_lengths("48"), count=client.counter(task, which, whole=True), texts=1, seed=0)
            [prepared] = client.prepare(task, texts.inputs, **which)
            yield prepared.path, prepared.body


def start_users(locust: str) -> None:
    """Two of Locust's users; returns when the first has its answer, as texts are prepared before."""
    form = urllib.parse.urlencode({"user_count": 2, "spawn_rate": 2}).encode()
    answer = json.loads(fetch(f"{locust}/swarm", form))
    if not answer.get("success"):
        raise ValueError(f"{locust} does not begin: {answer}")
    ends = time.monotonic() + BEGIN_SECONDS
    while not json.loads(fetch(f"{locust}/stats/requests"))["stats"][-1]["num_requests"]:
        if time.monotonic() > ends:
            raise ValueError(f"{locust} counts no request after {BEGIN_SECONDS:g} s")
        time.sleep(1.0)


def panels(folder: Path, prometheus: str, left_out: set[str]) -> Iterator[Asked]:
    """Queries of all dashboards, their variables filled in with all that there is."""
    for path in sorted(folder.glob("*.json")):
        if path.stem in left_out:
            continue
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        values = {each["name"]: value_of(each, prometheus) for each in dashboard["templating"]["list"]}
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                yield Asked(f"{path.stem}, {panel['title']}", filled(target["expr"], values))


def alerts(prometheus: str) -> Iterator[Asked]:
    """What each alert compares."""
    for group in ask(prometheus, "rules")["groups"]:
        for rule in group["rules"]:
            yield Asked(f"alert {rule['name']}", compared(rule["query"]))


def compared(query: str) -> str:
    """The left side of `query > number`; `ValueError` when it is none, as then nobody can tell silence from no data."""
    found = COMPARISON.match(query)
    if found is None:
        raise ValueError(f"an alert that does not compare a query with a number: {query}")
    return found[1]


def value_of(variable: Mapping[str, Any], prometheus: str) -> str:
    """All values of a variable that takes several, as Grafana writes them; else the one that is chosen at first."""
    if not variable["multi"]:
        return str(variable["current"]["value"])
    metric, label = variable["definition"].removeprefix("label_values(").removesuffix(")").split(", ")
    values = ask(prometheus, f"label/{label}/values", {"match[]": metric})
    return "(" + "|".join(values) + ")"


def filled(query: str, values: Mapping[str, str]) -> str:
    """The query without variables."""
    for name, value in {**values, "__rate_interval": INTERVAL}.items():
        query = re.sub(rf"\${name}\b", value, query)
    return query


def problem(prometheus: str, query: str) -> str | None:
    """Why a query is of no use; None when it has data."""
    try:
        found = ask(prometheus, "query", {"query": query})["result"]
    except urllib.error.HTTPError as error:
        return f"refused ({json.loads(error.read())['error']})"
    numbers = [float(each["value"][1]) for each in found]
    return None if any(map(math.isfinite, numbers)) else "no data"


def ask(prometheus: str, what: str, parameters: Mapping[str, str] | None = None) -> Any:  # noqa: ANN401 - JSON
    """What Prometheus' API answers."""
    return json.loads(fetch(f"{prometheus}/api/v1/{what}?{urllib.parse.urlencode(parameters or {})}"))["data"]


def post(url: str, body: str, headers: Mapping[str, str]) -> int:
    """The status of an answer, whichever."""
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def fetch(url: str, form: bytes | None = None) -> bytes:
    """The body of an answer."""
    with urllib.request.urlopen(url, form, timeout=_TIMEOUT_SECONDS) as answer:
        return bytes(answer.read())


if __name__ == "__main__":
    main()
