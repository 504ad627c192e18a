"""Keys: who gets in, what they may spend, and lines of the file that are none."""

import pytest

from service.errors import RateLimitError, SettingsError, UnauthorizedError
from service.keys import Gate, Key, digest, make_key, parse_line, read_keys


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def bearer(key: str) -> dict[str, str]:
    """Headers with a key."""
    return {"authorization": f"Bearer {key}"}


def test_without_keys_everybody_asks_and_nobody_reloads():
    """A service without keys is open, but its admin routes are not."""
    gate = Gate()
    assert gate.enter({}) is None
    with pytest.raises(UnauthorizedError, match="SECATEUR_API_KEYS"):
        gate.enter({}, admin=True)


@pytest.mark.parametrize("headers", [{}, bearer("wrong"), bearer(""), {"authorization": "Basic abc"}, {"x-api-key": "é"}, bearer("\udcff")])
def test_without_a_known_key_nobody_gets_in(headers: dict[str, str]):
    """A missing or unknown key is refused, whatever it is made of."""
    with pytest.raises(UnauthorizedError):
        Gate((Key("web", digest("right")),)).enter(headers)


def test_each_of_several_keys_gets_in():
    """Any key of the file is good, in either header, and only an admin's reloads."""
    gate = Gate((Key("web", digest("one")), Key("ops", digest("two"), admin=True)))
    assert gate.enter(bearer("one")) == Key("web", digest("one"))
    assert gate.enter({"x-api-key": "two"}, admin=True) == Key("ops", digest("two"), admin=True)
    with pytest.raises(UnauthorizedError, match="admin"):
        gate.enter(bearer("one"), admin=True)


def test_tokens_are_spent_and_come_back():
    """A key that has used up its minute waits for as long as it is told, and no key pays for another."""
    clock = Clock()
    gate = Gate((Key("web", digest("one"), tokens_per_minute=600), Key("ops", digest("two"))), clock=clock)
    gate.spend(gate.enter(bearer("one")), 700)
    with pytest.raises(RateLimitError) as caught:
        gate.enter(bearer("one"))
    gate.spend(gate.enter(bearer("two")), 10**9)
    assert gate.enter(bearer("two"))
    clock.now = caught.value.retry_after
    assert gate.enter(bearer("one"))


def test_a_bucket_holds_no_more_than_a_minute():
    """Waiting long does not save up tokens."""
    clock = Clock()
    gate = Gate((Key("web", digest("one"), tokens_per_minute=60),), clock=clock)
    clock.now = 1e6
    gate.spend(gate.enter(bearer("one")), 61)
    with pytest.raises(RateLimitError):
        gate.enter(bearer("one"))


def test_a_file_gives_keys(tmp_path):
    """Comments and blank lines are passed over, and options are read; the default limit is for lines that do not say."""
    path = tmp_path / "keys"
    path.write_text(f"# keys\n\nweb {digest('a')} tokens_per_minute=5 admin\nops {digest('b')}  # the other\n")
    assert read_keys(path, tokens_per_minute=9) == (
        Key("web", digest("a"), admin=True, tokens_per_minute=5),
        Key("ops", digest("b"), tokens_per_minute=9),
    )


@pytest.mark.parametrize("line", ["web secret", f"web {'0' * 63}", f"web {'0' * 64} root", f"web {'0' * 64} tokens_per_minute=0", "web"])
def test_a_line_that_is_no_key_is_named(tmp_path, line: str):
    """What is wrong is said with its line, and the line's content, which may be a key, is not."""
    path = tmp_path / "keys"
    path.write_text(f"good {digest('a')}\n{line}\n")
    with pytest.raises(SettingsError, match="line 2") as caught:
        read_keys(path)
    assert line not in str(caught.value)


@pytest.mark.parametrize("content", [None, "", "# nothing\n"])
def test_a_file_without_keys_is_refused(tmp_path, content: str | None):
    """A service that was told to ask for keys never opens by accident."""
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError):
        read_keys(path)


def test_made_keys_differ_and_are_read_back():
    """A new key is long, unlike another, and its line is one."""
    first, second = make_key(), make_key()
    assert first != second
    assert len(first) > 40
    assert Gate((parse_line(f"web {digest(first)}", "here"),)).enter(bearer(first))
