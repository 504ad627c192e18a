"""Lines of the log are JSON, and requests get theirs when asked."""

import json
import logging

import pytest

from service.logs import REQUESTS, JsonFormatter, configure


@pytest.fixture
def restored():
    """Logging as it was, afterwards."""
    root = logging.getLogger()
    level, handlers, requests = root.level, root.handlers[:], REQUESTS.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    REQUESTS.setLevel(requests)


def record(message: str, *arguments: object, **more: object) -> logging.LogRecord:
    """A record as a logger makes it."""
    made = logging.getLogger("service.x").makeRecord("service.x", logging.WARNING, "x.py", 1, message, arguments, None)
    made.__dict__.update(more)
    return made


def test_a_record_is_one_line_of_json():
    """Message and fields come back from the line, whatever is in them."""
    line = JsonFormatter().format(record("lost %s", 'a "quote"\nand a line', fields={"status": 503}))
    assert "\n" not in line
    read = json.loads(line)
    assert (read["level"], read["logger"], read["message"], read["status"]) == ("warning", "service.x", 'lost a "quote"\nand a line', 503)


def test_a_traceback_stays_inside_its_line():
    """An exception's traceback is a field."""
    try:
        raise ValueError("inside")
    except ValueError as error:
        line = JsonFormatter().format(record("failed", exc_info=(ValueError, error, error.__traceback__)))
    assert "inside" in json.loads(line)["traceback"]


@pytest.mark.parametrize("requests", [True, False])
def test_requests_are_logged_when_asked(restored, capsys, requests: bool):
    """The level of other events decides nothing about requests."""
    configure("error", requests=requests)
    REQUESTS.info("request", extra={"fields": {"status": 200}})
    logging.getLogger("service.y").warning("not shown")
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(line)["status"] for line in lines] == [200] * requests
