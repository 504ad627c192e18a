"""Our engine and what else generates with the same weights, behind one signature: so many tokens for each source, no fewer and no more.

Sequences of equal lengths are equal work, so nothing may end one early: the token that ends a sequence is forbidden until the limit, and
no token is forced. Each peer is imported when it is opened.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import BaseModel
from transformers import AutoTokenizer, GenerationConfig

from pruning import checkpoint
from pruning.errors import UnsupportedModelError
from pruning.timing import Clock
from pruning.tracing import quiet
from pruning.vocabulary import input_vocabulary
from service.generation import EncoderDecoder, GenerationSettings, generate
from service.generation.sessions import CachedSession
from service.model import GeneratingModel
from service.runtime.base import Array, Session
from service.runtime.onnx import base_options

Precision = Literal["fp32", "int8"]

_OPTIMUM_TASK = "text2text-generation-with-past"


@dataclass(frozen=True)
class Asked:
    """What is generated.

    Attributes:
        sources: token ids of each request, all of one length.
        beams: of beam search; 1 is greedy.
        new_tokens: written for each request.
    """

    sources: tuple[tuple[int, ...], ...]
    beams: int
    new_tokens: int

    @property
    def tokens(self) -> int:
        """Written in all."""
        return len(self.sources) * self.new_tokens


Generate = Callable[[Asked], list[list[int]]]
"""Token ids of what is written for each source."""


@dataclass(frozen=True)
class Peer:
    """A way to generate that is not ours.

    Attributes:
        name: of the peer.
        precision: of its linear layers.
        package: what it needs to import.
        open: loads a folder as transformers writes it, with that many threads.
    """

    name: str
    precision: Precision
    package: str
    open: Callable[[Path, int], Generate]

    @property
    def installed(self) -> bool:
        """Whether it can be opened."""
        return find_spec(self.package) is not None


def write_for_peers(artifact: Path, folder: Path) -> None:
    """Write the model of a dense fp32 artifact as transformers does: the same weights, which the artifact has rounded to fp16, in fp32.

    Raises:
        UnsupportedModelError: its output vocabulary is reduced, which no peer can read.
    """
    model = checkpoint.load(artifact)
    if input_vocabulary(model) is not None:
        raise UnsupportedModelError(
            f"{artifact}: its output vocabulary is reduced, which no peer can read; compare the model it comes from"
        )
    model.config.normalize_before = False  # CTranslate2 asks for what BART's own config file says and this class no longer does
    model.save_pretrained(folder)
    tokenizer = checkpoint.load_tokenizer(artifact)
    for name, token in (("bos_token", model.config.decoder_start_token_id), ("eos_token", model.config.eos_token_id)):
        if getattr(tokenizer, name) is None:  # as BERT's; CTranslate2 asks for both
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(token))
    tokenizer.save_pretrained(folder)


class Shares(BaseModel, frozen=True):
    """Where the time goes that our engine takes: shares of 1, in its two graphs and between them, in numpy."""

    encoder: float
    decoder: float
    search: float


@dataclass(frozen=True)
class ServedEngine:
    """The engine that serves, over an artifact's graphs; requests join as they do in service."""

    model: EncoderDecoder

    def __call__(self, asked: Asked) -> list[list[int]]:
        """Token ids of what is written for each source."""
        settings = GenerationSettings(max_new_tokens=asked.new_tokens, min_new_tokens=asked.new_tokens, num_beams=asked.beams)
        return [list(each.tokens) for each in generate(self.model, asked.sources, settings)]

    def shares(self, asked: Asked, clock: Clock) -> Shares:
        """Generate once, and say where the time went."""
        encoder, decoder = _Watched(self.model.encoder, clock), _Watched(self.model.decoder, clock)
        begun = clock()
        ServedEngine(replace(self.model, encoder=cast(Session, encoder), decoder=cast(CachedSession, decoder)))(asked)
        whole = clock() - begun
        return Shares(encoder=encoder.spent / whole, decoder=decoder.spent / whole, search=1 - (encoder.spent + decoder.spent) / whole)


class _Watched:
    """A session, and the time that its calls took."""

    def __init__(self, session: Session, clock: Clock) -> None:
        self.spent, self._session, self._clock = 0, session, clock

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever else the session has
        return getattr(self._session, name)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As the session does."""
        begun = self._clock()
        outputs = self._session.run(inputs)
        self.spent += self._clock() - begun
        return outputs


def open_engine(artifact: Path, threads: int = 1) -> ServedEngine:
    """Our engine over an artifact."""
    model = GeneratingModel.load(artifact, threads=threads).generator
    return ServedEngine(replace(model, special=replace(model.special, forced_first=None, forced_last=None)))


def open_transformers(folder: Path, threads: int = 1) -> Generate:
    """`generate` of transformers, in torch; the number of threads is that of the process."""
    from transformers import AutoModelForSeq2SeqLM

    torch.set_num_threads(threads)
    return partial(_generated, AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval())


def open_optimum(folder: Path, threads: int = 1) -> Generate:
    """optimum's `ORTModelForSeq2SeqLM` over its own export, with the options that our sessions have."""
    from optimum.exporters.onnx import main_export
    from optimum.onnxruntime import ORTModelForSeq2SeqLM

    with tempfile.TemporaryDirectory() as exported, quiet():
        main_export(str(folder), exported, task=_OPTIMUM_TASK, no_post_process=True, do_validation=False, library_name="transformers")
        model = ORTModelForSeq2SeqLM.from_pretrained(exported, use_merged=False, session_options=base_options(threads=threads))
    return partial(_generated, model)


def open_ctranslate2(folder: Path, threads: int = 1, *, compute_type: str = "int8") -> Generate:
    """CTranslate2, converted to `compute_type`: one worker with that many threads, which decodes all requests as one batch."""
    from ctranslate2 import Translator
    from ctranslate2.converters import TransformersConverter

    tokenizer = AutoTokenizer.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as converted:
        TransformersConverter(str(folder)).convert(converted, quantization=compute_type, force=True)
        translator = Translator(converted, device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=threads)

    def written(asked: Asked) -> list[list[int]]:
        found = translator.translate_batch(
            [tokenizer.convert_ids_to_tokens(list(source)) for source in asked.sources],
            beam_size=asked.beams,
            min_decoding_length=asked.new_tokens,
            max_decoding_length=asked.new_tokens,
        )
        return [tokenizer.convert_tokens_to_ids(each.hypotheses[0]) for each in found]

    return written


PEERS = (
    Peer("transformers", "fp32", "transformers", open_transformers),
    Peer("optimum", "fp32", "optimum.onnxruntime", open_optimum),
    Peer("ctranslate2", "int8", "ctranslate2", open_ctranslate2),
)


@torch.inference_mode()
def _generated(model: Any, asked: Asked) -> list[list[int]]:  # noqa: ANN401 - of transformers or of optimum
    own = model.generation_config
    config = GenerationConfig(
        min_new_tokens=asked.new_tokens,
        max_new_tokens=asked.new_tokens,
        num_beams=asked.beams,
        decoder_start_token_id=own.decoder_start_token_id,
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id,
    )
    ids = torch.tensor(asked.sources)
    found = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, use_model_defaults=False)
    tokens: list[list[int]] = found[:, 1:].tolist()
    return tokens
