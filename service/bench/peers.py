"""The peers: which servers one would use instead, which artifacts each can serve, and what has to be installed for it.

They live in `loadtests/peers/` and are started as child processes by their module's name; nothing of them is imported here.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from service.bench.servers import Server, started
from service.bench.subjects import Subject
from service.errors import BenchError
from service.packages import version_of

PACKAGE = "loadtests"
PATH = "/predict"
DEFAULT, THREADS, WORKERS = "default", "threads", "workers"


@dataclass(frozen=True)
class Peer:
    """One peer.

    Attributes:
        name: as tables show it.
        module: what is run.
        packages: what it needs, by the names under which they are installed.
        variants: of a model that it can serve.
        layouts: how it can be set up: `default` as documented, the others tuned.
    """

    name: str
    module: str
    packages: tuple[str, ...]
    variants: tuple[str, ...]
    layouts: tuple[str, ...]

    def missing(self) -> str | None:
        """What to install, in one line; None when it can be started."""
        if find_spec(PACKAGE) is None:
            return f"{self.name}: not here: {PACKAGE}/ is in the source tree only"
        absent = [package for package in self.packages if version_of(package) is None]
        return f"{self.name}: not installed: pip install {' '.join(absent)}" if absent else None

    def start(self, subject: Subject, layout: str, *, cores: int) -> Server:
        """Start it on an artifact; it is not ready yet."""
        tuned = [] if layout == DEFAULT else ["--tuned", layout]
        task = subject.model.manifest.task
        arguments = [self.module, "--artifact", str(subject.folder), "--task", task, "--cores", str(cores), *tuned]
        return Server(f"{self.name} ({layout})", arguments, ready_path="/health")


PEERS = (
    Peer(
        name="transformers",
        module="loadtests.peers.transformers_pipeline",
        packages=("torch", "transformers", "fastapi", "uvicorn"),
        variants=("dense",),
        layouts=(DEFAULT, THREADS, WORKERS),
    ),
    Peer(
        name="optimum",
        module="loadtests.peers.optimum_pipeline",
        packages=("optimum-onnx", "onnxruntime", "transformers", "fastapi", "uvicorn"),
        variants=("dense", "compact-int8"),
        layouts=(DEFAULT, THREADS, WORKERS),
    ),
    Peer(
        name="litserve",
        module="loadtests.peers.litserve_onnx",
        packages=("litserve", "onnxruntime", "tokenizers"),
        variants=("dense", "compact-int8"),
        layouts=(DEFAULT, WORKERS),
    ),
)

NOTES = ("transformers serves dense only: from_pretrained cannot read a compact checkpoint, as its layers have different shapes",)


@dataclass(frozen=True)
class Running:
    """A peer that is up, on one artifact in one layout."""

    peer: Peer
    subject: Subject
    layout: str
    server: Server

    @property
    def layer(self) -> str:
        """As tables show it."""
        return f"{self.peer.name} ({self.layout})"


@contextmanager
def running_peers(group: Sequence[Subject], layouts: Sequence[str], *, cores: int, note: Callable[[str], None]) -> Iterator[list[Running]]:
    """All peers that are installed, on all variants that they can serve. They start side by side and are asleep when they are ready.

    Args:
        group: variants of one model.
        layouts: those that are wanted.
        cores: of the machine, for tuned layouts.
        note: is told why one is missing.
    """
    with ExitStack() as stack:
        peers = [peer for peer in PEERS if peer.missing() is None]
        starting = [
            Running(peer, subject, layout, stack.enter_context(started(peer.start(subject, layout, cores=cores))))
            for peer in peers
            for subject in group
            for layout in peer.layouts
            if layout in layouts and subject.variant in peer.variants
        ]
        running = []
        for each in starting:
            try:
                each.server.wait()
            except BenchError as error:
                note(str(error))
            else:
                each.server.sleep()
                running.append(each)
        yield running


def missing_peers() -> list[str]:
    """A line for each peer that is not installed."""
    return [reason for peer in PEERS if (reason := peer.missing()) is not None]
