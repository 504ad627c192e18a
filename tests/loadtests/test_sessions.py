"""Raw sessions: what each step won, by length, and how near to the fastest matrix product."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.artifacts import Artifacts
from loadtests.plan import Plan, parse_subjects
from loadtests.probe import measure, product
from loadtests.results import Gemm
from loadtests.sessions import Probed, absent_of, factors_of, notes_of, probed_of, products_of, raw_of, rooflines_of, sessions_of
from loadtests.texts import TASKS

CHAIN = ("dense@torch", "dense", "dense-int8", "compact-int8")
POSITIVE = st.lists(st.floats(0.1, 100.0), min_size=5, max_size=5)


def times_of(**milliseconds: list[float]) -> dict:
    """Rounds at one length; `_at_` stands for @ and `_` for -."""
    return {name.replace("_at_", "@").replace("_", "-"): {384: np.array(values)} for name, values in milliseconds.items()}


@settings(deadline=None, max_examples=10)
@given(st.tuples(POSITIVE, POSITIVE, POSITIVE, POSITIVE))
def test_factors_of_a_chain_multiply_to_all_of_it(rows):
    """Whatever was measured."""
    times = {label: {384: np.array(values)} for label, values in zip(CHAIN, rows, strict=True)}
    factors = [factor for factor in factors_of(times, 384) if factor.chain == "compact-int8"]
    whole = np.exp(np.mean(np.log(np.array(rows[0]) / np.array(rows[-1]))))
    assert [factor.name for factor in factors] == ["ONNX Runtime", "8 bits", "pruning"]
    assert math.prod(factor.ratio.value for factor in factors) == pytest.approx(whole)


def test_a_step_that_was_not_measured_is_joined_with_the_next():
    """A chain whose end is missing is left out."""
    factors = list(factors_of(times_of(dense=[8.0] * 3, compact_int8=[2.0] * 3, compact=[4.0] * 3), 384))
    assert [(factor.name, factor.ratio.value) for factor in factors] == [("8 bits and pruning", pytest.approx(4.0))]


def test_speedups_are_over_the_first_subject():
    """Within rounds: a slow machine slows both."""
    sessions = list(sessions_of(times_of(dense=[4.0, 8.0, 40.0], compact=[2.0, 4.0, 20.0]), "dense"))
    assert [session.speedup.value for session in sessions] == pytest.approx([1.0, 2.0])
    assert sessions[1].speedup.low == pytest.approx(sessions[1].speedup.high)
    assert sessions[1].latency_ms.value == 4.0


def test_a_session_is_compared_with_the_product_of_its_runtime_and_precision():
    """10^9 multiply-accumulates in 100 ms are 20 x 10^9 operations per second."""
    manifest = {"macs": {"total": 1e9, "sequence_length": 384}, "head_size": 32, "layers": []}
    probed = [Probed("dense", "dense", "onnxruntime", "fp32"), Probed("dense@torch", "dense", "torch", "fp32")]
    gemms = [Gemm("onnxruntime", "int8", 400.0), Gemm("onnxruntime", "fp32", 40.0)]
    (found,) = rooflines_of(times_of(dense=[100.0], dense_at_torch=[100.0]), probed, {"dense": manifest}, gemms)
    assert (found.subject, found.giga_per_second, found.share) == ("dense", pytest.approx(20.0), pytest.approx(0.5))
    assert products_of(probed) == [("onnxruntime", "fp32")]


def test_sessions_of_subjects_and_of_steps_on_the_way_are_measured(tmp_path):
    """As far as their graphs are there; a model of several graphs has none."""
    for variant in ("dense", "compact-int8"):
        (tmp_path / "qa" / variant).mkdir(parents=True)
        (tmp_path / "qa" / variant / "model.onnx").touch()
    (tmp_path / "qa" / "compact").mkdir()
    manifests = {variant: {"precision": "int8" if "int8" in variant else "fp32"} for variant in ("dense", "compact-int8", "compact")}
    plan = Plan(("qa",), parse_subjects("dense,compact-int8,compact"))
    found = probed_of(plan, Artifacts(tmp_path, "qa", manifests, ()))
    assert [each.label for each in found if each.runtime == "onnxruntime"] == ["dense", "compact-int8"]
    assert {each.precision for each in found if each.variant == "compact-int8"} == {"int8"}


@pytest.fixture
def sparse_artifacts(tmp_path) -> Artifacts:
    """Dense alone has a graph; compact has none of that name, and dense-int8 could not be made."""
    for variant in ("dense", "compact"):
        (tmp_path / "qa" / variant).mkdir(parents=True)
    (tmp_path / "qa" / "dense" / "model.onnx").touch()
    manifests = {variant: {"precision": "fp32"} for variant in ("dense", "compact")}
    return Artifacts(tmp_path, "qa", manifests, (), {"dense-int8": "it cannot be made", "compact-int8": "it is not there"})


def test_what_is_missing_on_the_way_is_said_with_its_reason(sparse_artifacts, monkeypatch):
    """Not only subjects: without dense-int8 nobody could tell 8 bits from pruning, nor why."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else name)
    plan = Plan(("qa",), parse_subjects("dense,compact-int8"))
    absent = absent_of(plan, sparse_artifacts)
    assert absent == {
        "compact-int8": "it is not there",
        "dense@torch": "torch is not installed",
        "dense-int8": "it cannot be made",
        "compact": "compact has no model.onnx",
        "compact@openvino": "compact has no model.onnx",
    }
    assert [each.label for each in probed_of(plan, sparse_artifacts)] == ["dense"]
    assert all(label in note and reason in note for note, (label, reason) in zip(notes_of(absent), absent.items(), strict=True))


def test_the_page_tells_what_is_missing(sparse_artifacts, monkeypatch):
    """Beside what the child that measures says of those that it could not load."""
    monkeypatch.setattr(
        "loadtests.sessions.probe",
        lambda job, within_s: {"milliseconds": {}, "gemms": [1.0] * len(job["gemms"]), "failed": {"dense": "broken"}},
    )
    manifests = {variant: {**manifest, "max_length": 384} for variant, manifest in sparse_artifacts.manifests.items()}
    raw = raw_of(
        Plan(("qa",), parse_subjects("dense,compact-int8")),
        TASKS["qa"],
        replace(sparse_artifacts, manifests=manifests),
        tokens=384,
        within_s=1.0,
    )
    assert {note.split(" ")[0] for note in raw.notes} >= {"dense", "dense-int8", "compact-int8"}


def test_the_probe_measures_products_and_sessions(tmp_path):
    """A product of either precision is right and timed; a session that cannot be loaded is named, and the others go on."""
    (tmp_path / "model.onnx").write_bytes(product("fp32")[1])
    sessions = [
        {"label": label, "path": str(tmp_path / label), "runtime": "onnxruntime", "precision": "fp32", "task": ""} for label in "ab"
    ]
    gemms = [{"runtime": "onnxruntime", "precision": precision} for precision in ("fp32", "int8")]
    found = measure({"sessions": sessions, "lengths": [8], "rounds": 2, "seconds": 0.0, "gemms": gemms})
    assert set(found["failed"]) == {"a", "b"}
    assert found["milliseconds"] == {}
    assert all(0 < giga < 1e5 for giga in found["gemms"])
