"""What Hugging Face's own client gets from a server, as JSON: run by itself in an environment of its own, or imported.

python hub_calls.py http://127.0.0.1:8000
"""

import json
import sys
from typing import Any

import huggingface_hub
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

QUESTION = "who wrote it?"
CONTEXT = "Ada wrote it in the café 🙂. " * 5
TEXT = "ada wrote it"
BEAMS = {"num_beams": 3, "max_new_tokens": 8, "length_penalty": 2.0}


def calls(address: str) -> dict[str, Any]:
    """Every call that the client has for the tasks that are served, single and with parameters, and how it shows errors."""
    qa, classify, summarize = (InferenceClient(model=f"{address}/{route}") for route in ("qa", "classify", "summarize"))
    many = {"align_to_words": True, "doc_stride": 4, "handle_impossible_answer": False, "max_answer_len": 5, "max_question_len": 10}
    return {
        "version": huggingface_hub.__version__,
        "answer": _plain(qa.question_answering(question=QUESTION, context=CONTEXT)),
        "answers": _plain(qa.question_answering(question=QUESTION, context=CONTEXT, top_k=3, max_seq_len=20, **many)),
        "labels": _plain(classify.text_classification(TEXT)),
        "two logits": _plain(classify.text_classification(TEXT, top_k=2, function_to_apply="none")),
        "summary": _plain(summarize.summarization(CONTEXT)),
        "summary by beams": _plain(
            summarize.summarization(CONTEXT, clean_up_tokenization_spaces=False, generate_parameters=BEAMS, truncation="only_first")
        ),
        "too many beams": _error(lambda: summarize.summarization(CONTEXT, generate_parameters={"num_beams": 100})),
        "empty context": _error(lambda: qa.question_answering(question=QUESTION, context=" ")),
        "wrong stride": _error(lambda: qa.question_answering(question=QUESTION, context=CONTEXT, doc_stride=1000)),
        "wrong address": _error(lambda: InferenceClient(model=f"{address}/rose").text_classification(TEXT)),
    }


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, list) else dict(value)


def _error(call: Any) -> dict[str, Any]:
    try:
        call()
    except HfHubHTTPError as error:
        return {"status": error.response.status_code, "message": str(error)}
    return {"status": None, "message": "no error"}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(calls(sys.argv[1])))
