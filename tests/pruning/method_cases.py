"""Every method of fine-pruning with every granularity that it is tested at: one row here is all that a new one needs."""

from pruning.config import BlockSize, Granularity, L0Config, MagnitudeConfig, MethodConfig, MovementConfig, SoftMovementConfig

METHODS: dict[str, MethodConfig] = {
    "magnitude": MagnitudeConfig(),
    "magnitude, global": MagnitudeConfig(scope="global"),
    "movement": MovementConfig(),
    "movement, global": MovementConfig(scope="global"),
    "soft movement": SoftMovementConfig(),
    "l0": L0Config(),
}
GRANULARITIES: dict[str, Granularity] = {
    "unstructured": Granularity(attention="element", feed_forward="element"),
    "block": Granularity(attention=BlockSize(rows=4, columns=8), feed_forward=BlockSize(rows=4, columns=8)),
    "hybrid": Granularity(attention=BlockSize(rows=4, columns=4), feed_forward="neuron"),
    "struct": Granularity(attention="head", feed_forward="neuron"),
    "rows and columns": Granularity(attention="row", feed_forward="column"),
    "feed-forward alone": Granularity(attention=None, feed_forward="neuron"),
}
CASES = [(method, granularity) for method in METHODS for granularity in GRANULARITIES]
