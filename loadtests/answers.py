"""Whether an answer under load is the one that the unloaded service gave: speed without it is void."""

import json
import math
from typing import Any

TOLERANCE = 1e-3

_MOST_KEPT = 64


class Judge:
    """Compares answers to one request with its golden one; each different body is read once."""

    def __init__(self, golden: str) -> None:
        self._golden = json.loads(golden)
        self._seen = {golden.encode(): True}

    def right(self, body: bytes) -> bool:
        """Whether a body says what it should."""
        known = self._seen.get(body)
        if known is None:
            known = same(_parsed(body), self._golden)
            if len(self._seen) < _MOST_KEPT:
                self._seen[body] = known
        return known


def same(found: Any, golden: Any) -> bool:  # noqa: ANN401 - JSON
    """Whether two JSON values are the same but for rounding of fractions, such as scores."""
    if isinstance(golden, dict):
        return isinstance(found, dict) and found.keys() == golden.keys() and all(same(found[name], golden[name]) for name in golden)
    if isinstance(golden, list):
        return isinstance(found, list) and len(found) == len(golden) and all(map(same, found, golden))
    if isinstance(golden, float) and isinstance(found, int | float) and not isinstance(found, bool):
        return math.isclose(found, golden, rel_tol=0.0, abs_tol=TOLERANCE)
    return type(found) is type(golden) and bool(found == golden)


def _parsed(body: bytes) -> Any:  # noqa: ANN401 - JSON
    try:
        return json.loads(body)
    except ValueError:
        return None
