"""Settings of the service: each one is a variable `SECATEUR_…` and, for `secateur-serve`, a flag of the same name.

The only reader of the environment in `service/`. Lists are written with commas, mappings as JSON.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.errors import SettingsError

PREFIX = "SECATEUR_"


def _names(value: object) -> object:
    """A list of names from text: with commas between them, or as JSON."""
    if isinstance(value, str):
        return _json(value) if value.lstrip().startswith("[") else [name.strip() for name in value.split(",") if name.strip()]
    return value


def _json(value: object) -> object:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from error


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]
Runtimes = Annotated[dict[str, Literal["onnxruntime", "openvino"]], NoDecode, BeforeValidator(_json)]
Weights = Annotated[dict[str, dict[str, float]], NoDecode, BeforeValidator(_json)]


class Settings(BaseSettings):
    """What may be set, with its default."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    models: Path = Field(default=Path("models"), description="Folder that holds the artifacts, `<name>/<variant>/` each.")
    variants: Names = Field(default=(), description="Load only these, by `<name>/<variant>` or `<variant>`, `*` allowed; all without it.")
    prefer: Names = Field(
        default=("compact-int8", "compact", "dense-int8", "dense"),
        description="Which variant answers when a request does not say: the first of these that is loaded.",
    )
    weights: Weights = Field(
        default={}, description='Shares of such requests instead, sticky by request id: `{"qa": {"dense": 10, "compact-int8": 90}}`.'
    )
    runtime: Runtimes = Field(
        default={}, description='Runtime by `<name>/<variant>` or `*`: `{"qa/compact": "openvino"}`; otherwise onnxruntime.'
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="Where models run; cuda needs onnxruntime-gpu.")
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="Threads inside one call; without it 1 while serving, and every core for `answer`."
    )
    runners: int | None = Field(default=None, ge=1, le=1024, description="Calls at once; without it, every core that the process may use.")

    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    admin_port: int | None = Field(
        default=None, ge=0, le=65535, description="Port for /metrics and /v1/reload alone; without it they are on the port above."
    )
    cors_origins: Names = Field(default=(), description="Origins whose pages may call the service; none without it.")
    api_keys: Path | None = Field(
        default=None, description="File of hashed API keys, a line for each (`secateur-serve make-key` writes one); open without it."
    )
    tokens_per_minute: int | None = Field(
        default=None, ge=1, description="Tokens that a key may have computed in a minute, where its line does not say; no limit without it."
    )

    max_body_bytes: int = Field(default=2 * 2**20, ge=1024, description="Largest body.")
    max_items: int = Field(default=32, ge=1, le=1024, description="Most texts or questions in one request.")
    max_characters: int = Field(default=200_000, ge=1, le=1_000_000, description="Most characters in one text.")
    max_windows: int = Field(default=64, ge=1, le=512, description="Most windows that one text may take.")
    max_request_tokens: int = Field(default=32_768, ge=1, description="Most tokens that the windows of one text may take.")
    max_top_k: int = Field(default=100, ge=1, le=1000, description="Most answers to one question.")
    max_beams: int = Field(default=8, ge=1, le=64, description="Most beams that a request may ask for.")
    max_new_tokens: int = Field(default=1024, ge=1, description="Most tokens that a request may ask to be generated.")

    queue_requests: int = Field(default=512, ge=1, description="Most texts that wait or run; beyond it requests are refused (503).")
    queue_characters: int = Field(default=8_000_000, ge=1, description="Most characters of those texts.")
    queue_rows: int = Field(default=2048, ge=1, description="Most windows that wait.")
    queue_tokens: int = Field(default=400_000, ge=1, description="Most tokens of those windows.")
    queue_wait_ms: int = Field(
        default=2_000, ge=1, description="Longest wait that is foreseen for a new request; beyond it requests are refused (503)."
    )
    batch_tokens: int = Field(default=256, ge=1, description="Most padded tokens in one call, where rows may share one.")
    decoder_rows: int = Field(default=64, ge=1, le=4096, description="Most sequences that a model decodes at once, each beam one.")
    decoder_tokens: int = Field(
        default=65_536,
        ge=1,
        description="Most tokens whose keys and values a model has room for: of those sequences, and of their documents.",
    )
    timeout_ms: int = Field(default=30_000, ge=1, description="Time for a request that does not say (X-Request-Timeout-Ms).")
    max_timeout_ms: int = Field(default=120_000, ge=1, description="Most that a request may say.")

    drain_delay_s: float = Field(default=3.0, ge=0, description="After SIGTERM: not ready, but answering, for so long.")
    drain_s: float = Field(default=5.0, ge=0, description="Then: time for what is in flight.")
    stuck_s: float = Field(default=30.0, gt=0, description="A call that takes longer is given up, and its runner replaced.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="warning", description="Least severe event to log.")
    log_requests: bool = Field(default=False, description="A line in the log for each request, without its texts, whatever the level.")


def read_settings(given: Mapping[str, Any] | None = None) -> Settings:
    """Settings of this process; `SettingsError` names the variable or flag that cannot be used.

    Args:
        given: what flags say; it goes before the environment.
    """
    given = given or {}
    try:
        return Settings(**given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = str(problem["loc"][0]) if problem["loc"] else ""
        name = f"--{field.replace('_', '-')}" if field in given else f"{PREFIX}{field.upper()}"
        raise SettingsError(f"{name} is {problem['input']!r}: {problem['msg']}; set it right or unset it") from error
