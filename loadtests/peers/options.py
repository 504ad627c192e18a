"""What every peer takes on its command line, and what "tuned" means: one thread per call, and as many calls at a time as cores.

Libraries read their number of threads from the environment when they are loaded, so it is set before any of them is.
"""

import argparse
import json
import os
from dataclasses import dataclass
from typing import Literal

VARIABLE = "PEER_OPTIONS"
HOST = "127.0.0.1"
TASKS = ("question-answering", "text-classification")

Layout = Literal["default", "threads", "workers"]


@dataclass(frozen=True)
class Options:
    """One peer's options.

    Attributes:
        artifact: folder with `model.onnx`, or with weights for `from_pretrained`.
        task: by its standard name.
        port: to listen on.
        layout: `default`, as documented; `threads`: one process with a call per core; `workers`: a process per core.
        cores: of the machine.
    """

    artifact: str
    task: str
    port: int
    layout: Layout
    cores: int

    @property
    def tuned(self) -> bool:
        """Whether anything is set that the documentation does not set."""
        return self.layout != "default"

    @property
    def workers(self) -> int:
        """Processes that hold a model."""
        return self.cores if self.layout == "workers" else 1


def read_options() -> Options:
    """From the command line; child processes find them in the environment, where a tuned peer's number of threads is too."""
    parser = argparse.ArgumentParser(description="Serve an artifact at POST /predict; GET /health says when it is ready.")
    parser.add_argument("--artifact", required=True, help="folder <name>/<variant>")
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tuned", nargs="?", const="workers", default="default", choices=("threads", "workers"))
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    found = parser.parse_args()
    options = Options(found.artifact, found.task, found.port, found.tuned, found.cores)
    os.environ[VARIABLE] = json.dumps(vars(options))
    if options.tuned:
        os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return options


def inherited_options() -> Options:
    """In a process that a peer has started."""
    return Options(**json.loads(os.environ[VARIABLE]))
