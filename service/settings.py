"""Settings of the service, from the environment: `SECATEUR_MODELS`, `SECATEUR_THREADS`, `SECATEUR_LOG_LEVEL`.

The only reader of the environment in `service/`.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import SettingsError


class Settings(BaseSettings):
    """What may be set, with its default."""

    model_config = SettingsConfigDict(env_prefix="SECATEUR_", frozen=True)

    models: Path = Field(default=Path("models"), description="Folder that holds the artifacts, `<name>/<variant>/` each.")
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="Threads for one answer; without it, every core that the process may use."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="warning", description="Least severe event to log.")


def read_settings() -> Settings:
    """Settings of this process; `SettingsError` names the variable that cannot be used."""
    try:
        return Settings()
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        variable = "SECATEUR_" + "_".join(map(str, problem["loc"])).upper()
        raise SettingsError(f"{variable} is {problem['input']!r}: {problem['msg']}; set it right or unset it") from error
