"""Where data is: a local file or a dataset of the hub, read as rows of named columns.

Local files are SQuAD JSON (v1.1 and v2.0) for question answering, and JSON lines or CSV for classification and summarization. What
cannot be read is a `DataError` in one line.
"""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pruning.config import DataSource
from pruning.errors import DataError

PACKAGE = Path(__file__).parent


def rows_of(source: DataSource) -> tuple[str, Iterator[dict[str, Any]]]:
    """What to call the source in messages, and its rows, whose columns have names.

    Raises:
        DataError: there is no such file or dataset, or, as rows are read, it is not what it should be.
    """
    path = find_file(source.path) if source.path else None
    if path is not None:
        return str(path), _file_rows(path)
    if source.hub is None:
        looked = f" (also looked in SECATEUR_DATA={os.environ['SECATEUR_DATA']})" if "SECATEUR_DATA" in os.environ else ""
        raise DataError(f"{source.path}: no such file{looked}; give a path that exists, or a hub dataset")
    return f"hub dataset {source_name(source)}, split {source.split}", _hub_rows(source)


def source_name(source: DataSource) -> str:
    """Name of the source in reports and manifests."""
    if source.name:
        return source.name
    if source.hub:
        return f"{source.hub}/{source.config}" if source.config else source.hub
    return Path(source.path or "").stem


def find_file(path: str) -> Path | None:
    """The file at `path`: from here, from the folder that SECATEUR_DATA names, or from this package (`samples/`); None if nowhere."""
    candidates = [Path(path)]
    if "SECATEUR_DATA" in os.environ:
        candidates.append(Path(os.environ["SECATEUR_DATA"]) / path)  # an absolute path stays what it is
    candidates.append(PACKAGE / path)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _hub_rows(source: DataSource) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset  # slow to import, and not needed for local files

    try:
        dataset = load_dataset(source.hub, source.config, split=source.split, revision=source.revision)
    except (OSError, ValueError, RuntimeError) as error:
        # what datasets and the hub's client derive from: not found, offline, no such split
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise DataError(
            f"hub dataset {source_name(source)}, split {source.split}: cannot be loaded ({reason}); "
            "check the name and the network, or set `path`"
        ) from None
    return iter(dataset)


def _file_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        if path.suffix == ".json":
            yield from _squad_rows(json.loads(path.read_text(encoding="utf-8")), path)
        elif path.suffix == ".jsonl":
            with path.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield _json_line(line, path, number)
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                yield from csv.DictReader(file, strict=True)
        else:
            raise DataError(f"{path}: unknown kind of file; expected .json (SQuAD), .jsonl or .csv")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None


def _json_line(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {number} is not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(row, dict):
        raise DataError(f"{path}: line {number} is not a JSON object; expected one object with named columns a line")
    return row


def _squad_rows(content: object, path: Path) -> Iterator[dict[str, Any]]:
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise DataError(f"{path}: not SQuAD JSON: expected an object with a list `data` of articles")
    try:
        for article in content["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = [] if question.get("is_impossible") else question["answers"]
                    yield {
                        "id": question["id"],
                        "question": question["question"],
                        "context": paragraph["context"],
                        "answers": {"text": [a["text"] for a in answers], "answer_start": [a["answer_start"] for a in answers]},
                    }
    except KeyError as error:
        raise DataError(f"{path}: not SQuAD JSON: an article, paragraph, question or answer lacks {error}") from None
    except (TypeError, AttributeError) as error:
        raise DataError(f"{path}: not SQuAD JSON: an article, paragraph, question or answer is not what it should be ({error})") from None
