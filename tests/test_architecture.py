"""The import rules of the architecture, checked on the code as it is."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "onnx", "optimum", "datasets", "sklearn", "scipy", "pandas")


def run_python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_contracts_are_kept():
    """Every contract of import-linter in pyproject.toml holds."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_serving_loads_nothing_heavy():
    """Importing the server, its command line and its runtime loads no torch, transformers, onnx, optimum, datasets or sklearn."""
    loaded = run_python(
        "import sys, service.server, service.cli, service.runtime.onnx; print(*{name.partition('.')[0] for name in sys.modules})"
    ).split()
    assert "onnxruntime" in loaded
    assert not set(HEAVY) & set(loaded)


@pytest.mark.parametrize("arguments", [["--help"], ["recipes"]])
def test_pruning_help_loads_no_torch(arguments: list[str]):
    """Help and the list of recipes are quick: they load neither torch nor transformers."""
    code = f"""
import sys
from pruning.cli import main
main({arguments!r}, standalone_mode=False)
print('loaded', *{{name.partition('.')[0] for name in sys.modules}})
"""
    loaded = run_python(code).rpartition("loaded")[2].split()
    assert not {"torch", "transformers"} & set(loaded)


def test_each_package_is_typed_for_others():
    """Both packages carry the marker by which type checkers use their hints."""
    assert (ROOT / "service" / "py.typed").is_file()
    assert (ROOT / "pruning" / "py.typed").is_file()
