"""FastAPI over a `transformers` pipeline: `python -m loadtests.peers.transformers_pipeline --artifact models/qa/dense --task … --port …`.

Reads the artifact's checkpoint with `from_pretrained`, in fp32: the file's fp16 is for size, and slow on most processors. A compact
checkpoint cannot be read this way, as its layers have different shapes.
"""

import sys
from pathlib import Path

import torch
from fastapi import FastAPI
from transformers import pipeline

from loadtests.peers.options import inherited_options
from loadtests.peers.web import ask_pipeline, make_app, serve


def create_app() -> FastAPI:
    """The app, with the model loaded."""
    options = inherited_options()
    try:
        pipe = pipeline(options.task, model=options.artifact, dtype=torch.float32, device="cpu")
    except (OSError, ValueError, RuntimeError) as error:
        name = "/".join(Path(options.artifact).parts[-2:])
        sys.exit(f"transformers cannot read {name}: {' '.join(str(error).split())[:200]}")
    return make_app(options, lambda inputs: ask_pipeline(pipe, options.task, inputs, tuned=options.tuned))


if __name__ == "__main__":
    serve("loadtests.peers.transformers_pipeline")
