"""Settings come from the environment, and wrong ones are named."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.errors import SettingsError
from service.settings import Settings, read_settings


def test_defaults_need_no_environment(monkeypatch):
    """Without a variable set, everything has a value."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"SECATEUR_{name.upper()}", raising=False)
    assert read_settings() == Settings(models=Path("models"), threads=None, log_level="warning")


def test_variables_are_read(monkeypatch):
    """Each setting has its variable."""
    monkeypatch.setenv("SECATEUR_MODELS", "/data")
    monkeypatch.setenv("SECATEUR_THREADS", "3")
    monkeypatch.setenv("SECATEUR_LOG_LEVEL", "debug")
    assert read_settings() == Settings(models=Path("/data"), threads=3, log_level="debug")


@pytest.mark.parametrize(("name", "value"), [("THREADS", "0"), ("THREADS", "many"), ("LOG_LEVEL", "loud")])
def test_wrong_value_is_one_line_that_names_the_variable(monkeypatch, name, value):
    """What cannot be used is refused with the variable's name and value."""
    monkeypatch.setenv(f"SECATEUR_{name}", value)
    with pytest.raises(SettingsError, match=f"^SECATEUR_{name} is '{value}': ") as caught:
        read_settings()
    assert "\n" not in str(caught.value)


def test_settings_cannot_be_changed():
    """Nobody changes settings under somebody else."""
    with pytest.raises(ValidationError):
        Settings().threads = 2
