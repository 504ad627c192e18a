"""Layers of the service are read from its benchmark's report."""

from loadtests.layers import read_layers

FIGURES = {"requests_per_second": 10.0, "p50_ms": 1.0, "p99_ms": None, "cpu_ms_per_request": 3.0, "failed": 0}
ONE, MANY = "qa, 384 tokens", "qa, 8 x 384 tokens"
REPORT = {
    "rows": [
        {"load": ONE, "variant": "dense", "layer": "raw", **FIGURES},
        {"load": ONE, "variant": "dense", "layer": "http", **FIGURES},
        {"load": ONE, "variant": "compact, openvino", "layer": "engine", **FIGURES},
        {"load": MANY, "variant": "dense", "layer": "http", **FIGURES},
    ],
    "comparisons": [
        {"load": ONE, "variant": "dense", "name": "efficiency", "interval": {"value": 0.9, "low": 0.8, "high": 1.0}},
        {"load": ONE, "variant": "compact, openvino", "name": "engine's efficiency", "interval": {"value": 0.7, "low": 0.6, "high": 0.8}},
    ],
}


def test_layers_of_the_load_of_one_text_are_read():
    """With labels as they are asked for, and the share of the raw session where it is compared."""
    layers = list(read_layers(REPORT))
    assert [(layer.subject, layer.layer) for layer in layers] == [("dense", "raw"), ("dense", "http"), ("compact@openvino", "engine")]
    assert [layer.efficiency and layer.efficiency.value for layer in layers] == [None, 0.9, 0.7]
