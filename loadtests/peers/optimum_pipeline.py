"""FastAPI over optimum's ONNX Runtime pipeline: `python -m loadtests.peers.optimum_pipeline --artifact models/qa/compact-int8 …`.

Reads the same `model.onnx` as the service. Tuned, its sessions have one thread each, and none of them spins.
"""

import onnxruntime
from fastapi import FastAPI
from optimum.onnxruntime import ORTModelForQuestionAnswering, ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline

from loadtests.peers.options import inherited_options
from loadtests.peers.sessions import session_options
from loadtests.peers.web import ask_pipeline, make_app, serve

MODELS = {"question-answering": ORTModelForQuestionAnswering, "text-classification": ORTModelForSequenceClassification}


def create_app() -> FastAPI:
    """The app, with the model loaded."""
    options = inherited_options()
    tuned: onnxruntime.SessionOptions | None = session_options() if options.tuned else None
    model = MODELS[options.task].from_pretrained(options.artifact, file_name="model.onnx", session_options=tuned)
    pipe = pipeline(options.task, model=model, tokenizer=AutoTokenizer.from_pretrained(options.artifact))
    return make_app(options, lambda inputs: ask_pipeline(pipe, options.task, inputs, tuned=options.tuned))


if __name__ == "__main__":
    serve("loadtests.peers.optimum_pipeline")
