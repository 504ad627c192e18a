"""Logs of the server: a JSON object on a line, on stderr. What clients send is never in them, but for the request id."""

import json
import logging
import sys
import time
from typing import Any

REQUESTS = logging.getLogger("service.requests")


class JsonFormatter(logging.Formatter):
    """One line for each record, with the fields of `extra={"fields": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(level: str, *, requests: bool) -> None:
    """Log from now on.

    Args:
        level: least severe event.
        requests: whether each request gets a line, whatever the level.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    REQUESTS.setLevel(logging.INFO if requests else logging.WARNING)
