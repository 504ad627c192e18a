"""Generation beside its peers: one tiny model, everybody's tokens compared, and the command from one end to the other."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from pruning import checkpoint
from pruning.cli import main
from pruning.errors import ConfigError, ParityError, UnsupportedModelError
from pruning.generation_peers import (
    PEERS,
    Asked,
    Generate,
    ServedEngine,
    open_ctranslate2,
    open_engine,
    open_optimum,
    open_transformers,
    write_for_peers,
)
from pruning.generation_subjects import BART_BASE, QUICK, Subject, letter_tokenizer, random_models, random_sources, shipped_subject
from pruning.structure import shapes
from pruning.summarize_bench import REFERENCES, GenerationSpeeds, available, measure_subject, open_ways, take_turns
from tests.pruning.seq2seq_artifacts import byte_tokenizer, summarizer, write_summarizer

OTHERS = {"transformers": open_transformers, "optimum": open_optimum, "ctranslate2": partial(open_ctranslate2, compute_type="float32")}
installed = pytest.mark.skipif(find_spec("ctranslate2") is None, reason="ctranslate2 is not installed")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One tiny model as an artifact and as its peers read it."""
    folder = tmp_path_factory.mktemp("summarizer")
    write_summarizer(folder / "dense", summarizer(seed=4), variant="dense")
    write_for_peers(folder / "dense", folder / "peers")
    return folder / "dense", folder / "peers"


@pytest.fixture(scope="module")
def ours(folders: tuple[Path, Path]) -> ServedEngine:
    """Our engine over the artifact."""
    return open_engine(folders[0])


class TickingClock:
    """A clock that goes on by one millisecond whenever somebody looks."""

    def __init__(self):
        """Start at nothing."""
        self._ticks = count()

    def __call__(self) -> int:
        """Nanoseconds."""
        return next(self._ticks) * 1_000_000


@pytest.mark.parametrize("name", [pytest.param(name, marks=installed if name == "ctranslate2" else ()) for name in OTHERS])
def test_everybody_writes_the_same_tokens(name: str, folders: tuple[Path, Path], ours: Generate):
    """With the same weights in fp32, greedily and with beams, one request and three at a time."""
    peer = OTHERS[name](folders[1], 1)
    for beams in (1, 4):
        for requests in (1, 3):
            asked = Asked(random_sources(requests, 11, 250), beams, 9)
            assert peer(asked) == ours(asked)


def test_nothing_ends_early(ours: Generate):
    """As many tokens as asked for, none of them the end, which this model likes."""
    written = ours(Asked(random_sources(3, 11, 250), 4, 12))
    assert [len(tokens) for tokens in written] == [12] * 3
    assert 2 not in {token for tokens in written for token in tokens}


def test_peers_read_the_weights_of_the_artifact(folders: tuple[Path, Path]):
    """Rounded to fp16 as the artifact's, and not again."""
    artifact, plain = (checkpoint.load(folder).state_dict() for folder in folders)
    assert all((plain[name] == values).all() for name, values in artifact.items())


def test_a_reduced_vocabulary_is_not_for_peers(tmp_path: Path):
    """One line says so."""
    checkpoint.save(summarizer(reduced=True), byte_tokenizer(), tmp_path / "dense")
    with pytest.raises(UnsupportedModelError, match="output vocabulary is reduced"):
        write_for_peers(tmp_path / "dense", tmp_path / "peers")


def test_the_compact_models_are_half():
    """Heads, widths and decoder layers; then a third of the tokens to choose from."""
    found = {
        name: ([(each.heads, each.intermediate) for each in shapes(model)], model.config.vocab_size)
        for name, model in random_models(QUICK.shape, letter_tokenizer(300))
    }
    assert found == {
        "dense": ([(4, 48)] * 2 + [(4, 0), (4, 48)] * 2, 300),
        "compact": ([(2, 24)] * 2 + [(2, 0), (2, 24)], 300),
        "compact-third": ([(2, 24)] * 2 + [(2, 0), (2, 24)], 100),
    }


def test_the_default_shape_is_that_of_bart_base():
    """As its authors published it."""
    assert BART_BASE | {"d_model": 768, "encoder_layers": 6, "decoder_attention_heads": 12, "vocab_size": 50_265} == BART_BASE


def test_a_tokenizer_has_as_many_tokens_as_asked_for():
    """Special tokens where BART has them, and no token twice."""
    tokenizer = letter_tokenizer(300)
    assert len(tokenizer) == 300
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]


def test_turns_go_forwards_and_backwards():
    """One call each that does not count, then A-B-B-A by the stopwatch."""
    made: list[str] = []
    calls = {name: partial(made.append, name) for name in ("a", "b")}
    timings = take_turns(calls, rounds=2, stopwatch=TickingClock())
    assert made == ["a", "b", "a", "b", "b", "a"]
    assert all(np.array_equal(samples, [1.0, 1.0]) for samples in timings.samples.values())


def test_speeds_of_unequal_work_are_refused(folders: tuple[Path, Path]):
    """Whoever writes fewer tokens than the others is named."""
    subject = Subject("tiny", folders[1], {("dense", "fp32"): folders[0]})
    lazy = replace(PEERS[0], open=lambda folder, threads: lambda asked: [[5]])
    ways, _ = open_ways(subject, QUICK, peers=[lazy])
    with pytest.raises(ParityError, match="transformers dense fp32 wrote"):
        measure_subject(subject, QUICK, ways=ways)


def test_a_peer_that_cannot_read_the_model_is_left_out(folders: tuple[Path, Path]):
    """One line says which and why, before anything is timed; the others are compared."""

    def broken(folder: Path, threads: int) -> Generate:
        raise RuntimeError("type must be string,\n but is null")

    subject = Subject("tiny", folders[1], {("dense", "fp32"): folders[0]})
    ways, lines = open_ways(subject, QUICK, peers=[PEERS[0], replace(PEERS[2], open=broken)])
    assert [way.name for way in ways] == ["secateur dense fp32", "transformers dense fp32"]
    assert lines == ["ctranslate2 cannot read tiny: RuntimeError: type must be string, but is null"]


@installed
def test_ctranslate2_reads_a_model_whose_tokenizer_names_no_end(tmp_path: Path):
    """As BERT's, whose separator is the model's end."""
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token = None
    checkpoint.save(summarizer(seed=4), tokenizer, tmp_path / "dense")
    write_for_peers(tmp_path / "dense", tmp_path / "peers")
    assert AutoTokenizer.from_pretrained(tmp_path / "peers").eos_token is not None
    written = open_ctranslate2(tmp_path / "peers", compute_type="float32")
    assert [len(tokens) for tokens in written(Asked(((5, 6, 7),), beams=1, new_tokens=4))] == [4]


def test_lengths_beyond_the_shipped_model_are_refused(folders: tuple[Path, Path], tmp_path: Path):
    """Before anything is exported."""
    with pytest.raises(ConfigError, match="it reads 40 tokens and writes 12"):
        shipped_subject(folders[0].parent, tmp_path, replace(QUICK, new_tokens=13))


def test_the_shipped_model_is_compared_as_it_ships(folders: tuple[Path, Path], tmp_path: Path):
    """Its dense artifact, that in 8 bits, and the peers' form of it."""
    found = shipped_subject(folders[0].parent, tmp_path, QUICK)
    assert found.ours == {("dense", "fp32"): folders[0], ("dense", "int8"): tmp_path / "dense-int8"}
    ways, _ = open_ways(found, QUICK, peers=[])
    speeds = measure_subject(found, replace(QUICK, beams=(1,), requests=(2,)), ways=ways)
    assert [(row.variant, row.precision, set(row.over)) for row in speeds] == [
        ("dense", "fp32", {"secateur dense int8"}),
        ("dense", "int8", set()),
    ]


@pytest.mark.parametrize("beams", [1, 4])
def test_where_the_time_goes_adds_up(ours: ServedEngine, beams: int):
    """A call of a graph takes one tick, and so does what is between two: one for each source, and one or more for each token."""
    clock = TickingClock()
    spent = ours.shares(Asked(random_sources(3, 11, 250), beams, 9), clock)
    whole = clock() // 1_000_000 - 1
    calls = whole // 2
    assert spent.encoder == pytest.approx(3 / whole)
    assert spent.decoder == pytest.approx((calls - 3) / whole)
    assert calls - 3 >= 9
    assert spent.encoder + spent.decoder + spent.search == pytest.approx(1)


def test_a_peer_that_is_not_installed_is_left_out():
    """One line says which; the others are compared."""
    missing = replace(PEERS[2], package="no_such_package")
    assert available([PEERS[0], missing]) == ([PEERS[0]], ["ctranslate2 is not installed; make bench-summarize installs it"])


@installed
def test_the_command_prints_json(invoke: Callable, tmp_path: Path):
    """A row for each way, search and number of requests; ratios to the references, conditions and versions with it."""
    result = invoke(main, ["--quiet", "bench-summarize", "--quick", "--models", str(tmp_path), "--json"])
    document = json.loads(result.stdout)
    found = GenerationSpeeds.model_validate(document)
    ways = {(row.engine, row.variant, row.precision) for row in found.rows}
    assert {("secateur", "dense", "fp32"), ("secateur", "dense", "int8"), ("secateur", "compact-third", "int8")} < ways
    assert {("transformers", "dense", "fp32"), ("optimum", "dense", "fp32"), ("ctranslate2", "dense", "int8")} < ways
    assert len(found.rows) == 7 * 2 * 2
    assert all(row.tokens_per_second > 0 for row in found.rows)
    assert {len(row.over) for row in found.rows} == {len(REFERENCES) - 1, len(REFERENCES)}
    assert "there is no" in found.left_out[0]
    assert {row.spent is None for row in found.rows if row.engine != "secateur"} == {True}
    assert {row.spent is None for row in found.rows if row.engine == "secateur"} == {False}
    assert "encoder, the decoder and the search" in found.as_text()
    assert (found.threads, found.rounds) == (1, 1)
