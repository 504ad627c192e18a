"""For Locust by hand, with its own web page: `locust -f loadtests/locustfile.py --host http://localhost:8000`, then localhost:8089.

Each user asks once a second, so as many users are as many requests per second, as long as the service keeps up: this is a closed loop,
and what it says of latency under too much load is too kind. `secateur-loadtest` is for figures. Users whose task the service does not
serve stay away. Texts are drawn, and golden answers taken, when a test starts.
"""

from argparse import Namespace
from pathlib import Path
from typing import Any, ClassVar

from loadtests.users import ServiceUser  # first: it patches the process for gevent

# isort: split
import sys
from itertools import count

from locust import constant_throughput, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopTest

from loadtests.client import Client
from loadtests.driver import Asked, with_judges
from loadtests.errors import LoadTestError
from loadtests.exporter import Exporter
from loadtests.lengths import parse_lengths
from loadtests.texts import TASKS, Task, file_texts, own_texts


class TaskUser(ServiceUser):
    """Asks for one task, once a second."""

    abstract = True
    wait_time = constant_throughput(1)
    about: ClassVar[Task]
    asked: ClassVar[list[Asked]] = []
    prepared_for: ClassVar[tuple[object, ...]] = ()
    turns: ClassVar[Any] = count()

    @task
    def ask_next(self) -> None:
        """The next text."""
        text = next(self.turns) % len(self.asked)
        self.ask(*self.asked[text], text=text)


def user_of(about: Task) -> type[TaskUser]:
    """Locust's class of users of a task: `QaUser`, `ClassifyUser`, `SummarizeUser`."""
    return type(f"{about.name.title()}User", (TaskUser,), {"about": about, "abstract": False, "__module__": __name__})


USERS = tuple(map(user_of, TASKS.values()))
globals().update({user.__name__: user for user in USERS})  # Locust looks for users among the names of this file


def add_options(parser: LocustArgumentParser) -> None:
    """Options beside Locust's own, on its command line and on its page."""
    parser.add_argument("--variant", default="", help="Which variant answers; without it the service's default.")
    parser.add_argument(
        "--length", default="", help="Tokens of a text: 384, 16-384, or 32:5,384:2 with weights; without it the task's own."
    )
    parser.add_argument("--texts", default="", help="SQuAD's JSON, or JSON lines, in the place of own sentences.")
    parser.add_argument("--distinct", type=int, default=16, help="How many different texts.")
    parser.add_argument("--seed", type=int, default=0, help="Of the texts.")
    parser.add_argument(
        "--metrics-port", type=int, default=None, include_in_web_ui=False, help="Export the user's side to Prometheus here."
    )
    parser.add_argument("--metrics-address", default="127.0.0.1", include_in_web_ui=False, help="Address of that port.")


def begin(environment: Environment, **_: object) -> None:
    """Answer Prometheus, where asked to; without the page, prepare before the clock of `--run-time` runs."""
    environment.host = (environment.host or "").rstrip("/") or None
    options = environment.parsed_options
    if options is None:
        return
    try:
        if options.metrics_port is not None:
            ServiceUser.exporter = Exporter()
            ServiceUser.exporter.serve(options.metrics_port, options.metrics_address)
        if options.headless and environment.host:
            prepare(environment)
    except (LoadTestError, StopTest) as error:
        sys.exit(f"Error: {error}")


def prepare(environment: Environment, **_: object) -> None:
    """Texts and their golden answers for each task that is served, unless they are there already; users of the others stay away."""
    options = environment.parsed_options
    assert options is not None
    environment.host = (environment.host or "").rstrip("/") or None
    what = (environment.host, options.variant, options.length, options.texts, options.distinct, options.seed)
    if TaskUser.prepared_for != what:
        try:
            found = {user: prepared(Client(environment.host or ""), user.about, options) for user in chosen(environment)}
        except LoadTestError as error:
            raise StopTest(str(error)) from error
        if not any(found.values()):
            raise StopTest(f"{environment.host} serves none of the tasks in variant {options.variant or 'any'}")
        for user, asked in found.items():
            user.asked = asked
        environment.user_classes[:] = [user for user, asked in found.items() if asked]
        TaskUser.prepared_for = what


def chosen(environment: Environment) -> list[type[TaskUser]]:
    """Users that are there, and those that stayed away when another service was asked."""
    return [user for user in USERS if user in environment.user_classes or (TaskUser.prepared_for and not user.asked)]


def prepared(client: Client, about: Task, options: Namespace) -> list[Asked]:
    """Requests of a task with the judges of their answers; none where it is not served."""
    rows = [row for row in client.served(about) if options.variant in ("", row["variant"])]
    if not rows:
        return []
    which = {"model": rows[0]["model"], "variant": rows[0]["variant"]}
    make: dict[str, Any] = {"count": client.counter(about, which, whole=not options.texts), "texts": options.distinct, "seed": options.seed}
    lengths = parse_lengths(options.length) if options.length else about.lengths
    texts = file_texts(about, Path(options.texts), **make) if options.texts else own_texts(about, lengths, **make)
    return with_judges(client.prepare(about, texts.inputs, **which))


for event, listener in ((events.init_command_line_parser, add_options), (events.init, begin), (events.test_start, prepare)):
    event.add_listener(listener)  # type: ignore[no-untyped-call] # Locust's events have no hints
