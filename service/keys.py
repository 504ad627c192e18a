"""API keys: who may ask, who may reload, and how many tokens each may have computed in a minute.

A key is 256 random bits, shown once; the file holds its SHA-256, which for a secret of that size is as good as a slow hash. Every
line is compared, each in constant time, so that the time it takes tells nothing. Tokens are taken from a bucket that refills evenly.

    # name  sha256  options
    web     9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  tokens_per_minute=600000
    ops     60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752  admin
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from service.errors import RateLimitError, SettingsError, UnauthorizedError

LINE = re.compile(r"^(?P<name>[\w.-]{1,64})\s+(?P<sha256>[0-9a-f]{64})(?P<options>(\s+(admin|tokens_per_minute=[1-9][0-9]{0,11}))*)\s*$")


@dataclass(frozen=True)
class Key:
    """One line of the file.

    Attributes:
        name: for logs; the key itself is nowhere.
        sha256: of the key, in hexadecimal.
        admin: whether it may reload.
        tokens_per_minute: None: no limit.
    """

    name: str
    sha256: str
    admin: bool = False
    tokens_per_minute: int | None = None


def make_key() -> str:
    """A new key: 256 random bits."""
    return "sk-" + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    """What the file holds of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(path: Path, *, tokens_per_minute: int | None = None) -> tuple[Key, ...]:
    """Keys of a file; `SettingsError` names the line that is none.

    Args:
        path: the file.
        tokens_per_minute: of keys whose line does not say.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: the file of API keys cannot be read ({error}); set SECATEUR_API_KEYS right or unset it") from error
    keys = [
        parse_line(line, f"{path}, line {number}", tokens_per_minute) for number, line in enumerate(lines, 1) if line.split("#")[0].strip()
    ]
    if not keys:
        raise SettingsError(f"{path} holds no key; `secateur-serve make-key NAME` writes a line for it")
    return tuple(keys)


class Gate:
    """Lets requests through by their key, and counts their tokens; everything goes through when there are no keys."""

    def __init__(self, keys: tuple[Key, ...] = (), *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with full buckets.

        Args:
            keys: who may ask.
            clock: seconds.
        """
        self._keys, self._clock = keys, clock
        self._buckets = {key.name: _Bucket(key.tokens_per_minute, clock) for key in keys if key.tokens_per_minute is not None}

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a key."""
        return not self._keys

    def enter(self, headers: Mapping[str, str], *, admin: bool = False) -> Key | None:
        """The key of a request, from `Authorization: Bearer …` or `X-API-Key`; `UnauthorizedError` or `RateLimitError` without leave."""
        if self.is_open:
            if admin:
                raise UnauthorizedError("this needs an admin key, and the server has none; set SECATEUR_API_KEYS, or send it SIGHUP")
            return None
        given = _given(headers)
        if not given:
            raise UnauthorizedError("an API key is needed; send it as `Authorization: Bearer KEY`")
        found = self._find(given)
        if found is None:
            raise UnauthorizedError("the API key is not known; check it, or ask for a new one")
        if admin and not found.admin:
            raise UnauthorizedError("this needs an admin key")
        if found.name in self._buckets:
            self._buckets[found.name].check()
        return found

    def spend(self, key: Key | None, tokens: int) -> None:
        """Count tokens that were computed; what goes below zero has to come back before the key may ask again."""
        if key is not None and key.name in self._buckets:
            self._buckets[key.name].take(tokens)

    def _find(self, given: str) -> Key | None:
        sha256 = digest(given)
        matches = [key for key in self._keys if hmac.compare_digest(key.sha256, sha256)]  # all of them: no early end to time
        return matches[0] if matches else None


class _Bucket:
    """Tokens that refill evenly, up to a minute's worth."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._left, self._at = float(per_minute), clock()

    def check(self) -> None:
        self._refill()
        if self._left <= 0:
            wait = (1 - self._left) * 60 / self._per_minute
            raise RateLimitError(f"the key has used up its {self._per_minute} tokens a minute; try again in {wait:.1f} s", retry_after=wait)

    def take(self, tokens: int) -> None:
        self._refill()
        self._left -= tokens

    def _refill(self) -> None:
        now = self._clock()
        self._left = min(float(self._per_minute), self._left + (now - self._at) * self._per_minute / 60)
        self._at = now


def _given(headers: Mapping[str, str]) -> str:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def parse_line(line: str, where: str, default: int | None = None) -> Key:
    """A key from a line of the file; `SettingsError` when it is none."""
    match = LINE.match(line.split("#")[0].strip())
    if match is None:
        raise SettingsError(
            f"{where} is not `name sha256 [admin] [tokens_per_minute=N]`; `secateur-serve make-key NAME` writes such a line"
        )
    options = match["options"].split()
    limits = [int(option.partition("=")[2]) for option in options if option.startswith("tokens_per_minute")]
    return Key(match["name"], match["sha256"], "admin" in options, limits[-1] if limits else default)
