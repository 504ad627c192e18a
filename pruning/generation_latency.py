"""The measured latency table of generation: what each block of an encoder-decoder costs from the source to the last token.

An encoder's blocks are paid once per request, for every token of the source, and so are the keys and values that cross-attention reads.
A decoder's blocks and its language-model head are paid again at each step, for the rows that are decoded together: all beams of all
requests. So a table has milliseconds per request and milliseconds per step, and a price is their sum at the lengths that are expected.
`pruning/generation_bench.py` takes the table; `pruning/latency.py` has what is done with one, whatever it is of.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pruning.families.base import Side
from pruning.latency import GRID_STEP, costs_by_size, interpolate
from pruning.search import Costs
from service.artifact import LayerShape, Machine

FORMAT: Literal[1] = 1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GenerationCondition(_Part):
    """What the latency of generation is a latency of: so many requests, encoded one by one and decoded together."""

    precision: str = Field(description="Arithmetic of the linear layers: fp32, int8.")
    source_length: int = Field(gt=0, description="Tokens of a source; none of them is padding.")
    target_length: int = Field(gt=0, description="Tokens that are generated.")
    beams: int = Field(default=1, gt=0, description="Beams of a request.")
    requests: int = Field(default=1, gt=0, description="Requests that are decoded at the same time.")
    runtime: str = Field(default="onnxruntime", description="Runtime that serves.")
    threads: int = Field(default=1, gt=0, description="Threads inside one call.")


class GenerationDimensions(_Part):
    """The dense model, as far as latency depends on it, and the output vocabulary that the model at hand has."""

    family: str = Field(description="Model family: bart.")
    hidden_size: int = Field(gt=0, description="Width of the residual stream.")
    head_size: int = Field(gt=0, description="Columns of one head.")
    heads: int = Field(gt=0, description="Heads of each attention.")
    encoder_layers: int = Field(gt=0, description="Layers of the encoder.")
    decoder_layers: int = Field(gt=0, description="Layers of the decoder.")
    intermediate: int = Field(gt=0, description="Feed-forward neurons of an encoder layer.")
    decoder_intermediate: int = Field(gt=0, description="Feed-forward neurons of a decoder layer.")
    vocabulary: int = Field(gt=0, description="Tokens that the dense model chooses from.")
    outputs: int = Field(gt=0, description="Tokens that the model at hand chooses from.")

    @property
    def dense(self) -> tuple[LayerShape, ...]:
        """Shapes of the dense model, as the family lists them."""
        self_attention = LayerShape(heads=self.heads, intermediate=0)
        cross_attention = LayerShape(heads=self.heads, intermediate=self.decoder_intermediate)
        encoder = (LayerShape(heads=self.heads, intermediate=self.intermediate),) * self.encoder_layers
        return encoder + (self_attention, cross_attention) * self.decoder_layers

    @property
    def sides(self) -> tuple[Side, ...]:
        """Where the layers of `dense` are."""
        return sides_of(self.encoder_layers, self.decoder_layers)


class GenerationIdentity(_Part):
    """All that a table depends on; one that was taken under another identity says nothing here."""

    format: Literal[1] = Field(default=FORMAT, description="Version of the table's format and of how it is measured.")
    condition: GenerationCondition = Field(description="What was measured.")
    dimensions: GenerationDimensions = Field(description="Of which model.")
    machine: Machine = Field(description="Where, and with which version of the runtime.")
    versions: dict[str, str] = Field(description="Versions of the packages that make the graphs.")


class _Blocks(_Part):
    fixed_ms: float = Field(ge=0, description="Embeddings, a step's head over a small vocabulary, and the call itself.")
    feed_forward_ms: dict[int, float] = Field(min_length=2, description="Feed-forward by neurons kept; 0 is a removed block.")
    factor: float = Field(default=1.0, gt=0, description="Whole models over the sum of their blocks.")

    def blocks_ms(self, layers: Sequence[LayerShape], sides: Sequence[Side]) -> float:
        """What all layers cost, uncalibrated."""
        pairs = list(zip(sides, layers, strict=True))
        return sum(self.attention(side, layer.heads) + self.feed_forward(side, layer.intermediate) for side, layer in pairs)

    def attention(self, side: Side, heads: int) -> float:
        """What an attention there costs, uncalibrated."""
        raise NotImplementedError

    def feed_forward(self, side: Side, neurons: int) -> float:
        """What a feed-forward there costs, uncalibrated."""
        raise NotImplementedError


class RequestTable(_Blocks):
    """Milliseconds to encode one request. A block's share includes its residual addition and its norm."""

    attention_ms: dict[int, float] = Field(min_length=2, description="Self-attention by heads kept; 0 is a removed block.")
    source_ms: dict[int, float] = Field(min_length=2, description="Keys and values for a cross-attention by heads kept.")

    def attention(self, side: Side, heads: int) -> float:
        """See `_Blocks`."""
        levels = {"encoder": self.attention_ms, "cross": self.source_ms}
        return interpolate(levels[side], heads) if side in levels else 0.0

    def feed_forward(self, side: Side, neurons: int) -> float:
        """See `_Blocks`."""
        return interpolate(self.feed_forward_ms, neurons) if side == "encoder" else 0.0


class StepTable(_Blocks):
    """Milliseconds of one step of decoding, for all rows. A block's share is as in `RequestTable`."""

    self_attention_ms: dict[int, float] = Field(min_length=2, description="Self-attention by heads kept, half of the target in its cache.")
    cross_attention_ms: dict[int, float] = Field(min_length=2, description="Cross-attention by heads kept.")
    head_ms: float = Field(ge=0, description="Language-model head over the dense model's vocabulary, beyond a small one's.")
    own_head_ms: float = Field(ge=0, description="Language-model head over the vocabulary of the model at hand, beyond a small one's.")

    def attention(self, side: Side, heads: int) -> float:
        """See `_Blocks`."""
        levels = {"decoder": self.self_attention_ms, "cross": self.cross_attention_ms}
        return interpolate(levels[side], heads) if side in levels else 0.0

    def feed_forward(self, side: Side, neurons: int) -> float:
        """See `_Blocks`."""
        return interpolate(self.feed_forward_ms, neurons) if side == "cross" else 0.0


class GenerationTable(_Part):
    """What encoding and decoding cost, block by block."""

    identity: GenerationIdentity = Field(description="What the table is valid for.")
    request: RequestTable = Field(description="Paid once per request.")
    step: StepTable = Field(description="Paid for each token.")
    spread: float = Field(default=0.0, ge=0, description="Unrest while measuring: quartile distance over median, median over sizes.")

    def request_ms(self, layers: Sequence[LayerShape], sides: Sequence[Side]) -> float:
        """Latency of encoding one request."""
        return self.request.factor * (self.request.fixed_ms + self.request.blocks_ms(layers, sides))

    def step_ms(self, layers: Sequence[LayerShape], sides: Sequence[Side], *, dense_head: bool = False) -> float:
        """Latency of one step of decoding, with the language-model head of the model at hand or of the dense one."""
        head = self.step.head_ms if dense_head else self.step.own_head_ms
        return head + self.step.factor * (self.step.fixed_ms + self.step.blocks_ms(layers, sides))


@dataclass(frozen=True)
class GenerationPrices:
    """A table as seen from one model: its layers, its output vocabulary. See `latency.Predictor`.

    Attributes:
        table: what was measured.
        sides: where the model's layers are.
    """

    table: GenerationTable
    sides: tuple[Side, ...]

    @property
    def dense_ms(self) -> float:
        """All requests of the condition through the dense model, with its whole vocabulary."""
        table, dimensions = self.table, self.table.identity.dimensions
        dense = dimensions.dense, dimensions.sides
        return generation_ms(table.identity.condition, table.request_ms(*dense), table.step_ms(*dense, dense_head=True))

    def latency_ms(self, layers: Sequence[LayerShape]) -> float:
        """All requests of the condition through a model of these shapes, which has the layers and the vocabulary of the one at hand."""
        table = self.table
        return generation_ms(table.identity.condition, table.request_ms(layers, self.sides), table.step_ms(layers, self.sides))

    def costs(self, layers: Sequence[LayerShape], *, step: int = GRID_STEP) -> Costs:
        """Prices for the search, in milliseconds for all requests of the condition.

        Args:
            layers: what the model to be pruned has now.
            step: neurons are kept in multiples of this, or as many as there are.
        """
        once, again = self.table.request, self.table.step

        def price(of_request: float, of_step: float) -> float:
            return generation_ms(self.table.identity.condition, once.factor * of_request, again.factor * of_step)

        return costs_by_size(
            layers,
            attention=lambda side, heads: price(once.attention(side, heads), again.attention(side, heads)),
            feed_forward=lambda side, neurons: price(once.feed_forward(side, neurons), again.feed_forward(side, neurons)),
            sides=self.sides,
            fixed=price(once.fixed_ms, again.fixed_ms) + self.table.identity.condition.target_length * again.own_head_ms,
            step=step,
        )


def calibrated(table: GenerationTable, encoder_ms: float, step_ms: float) -> GenerationTable:
    """Factors for encoding and for decoding, such that predictions agree with the dense model, measured with a small vocabulary."""
    dimensions = table.identity.dimensions
    dense = dimensions.dense, dimensions.sides
    request = table.request.model_copy(update={"factor": encoder_ms / (table.request.fixed_ms + table.request.blocks_ms(*dense))})
    step = table.step.model_copy(update={"factor": step_ms / (table.step.fixed_ms + table.step.blocks_ms(*dense))})
    return table.model_copy(update={"request": request, "step": step})


def generation_ms(condition: GenerationCondition, request_ms: float, step_ms: float) -> float:
    """Milliseconds for all requests: each is encoded by itself, and all are decoded together."""
    return condition.requests * request_ms + condition.target_length * step_ms


def sides_of(encoder_layers: int, decoder_layers: int) -> tuple[Side, ...]:
    """Where the layers are that a family lists for an encoder-decoder."""
    encoder: tuple[Side] = ("encoder",)
    decoder: tuple[Side, Side] = ("decoder", "cross")
    return encoder * encoder_layers + decoder * decoder_layers
