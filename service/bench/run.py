"""One run: load the artifacts, start every server, visit all cells in interleaved rounds, compare.

Loads are measured one after another; within a load everything that is compared takes turns.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from service.bench.client import Generator
from service.bench.compare import Row, comparisons, row_of
from service.bench.engine import running_scheduler
from service.bench.gates import answer_verdict, verdicts
from service.bench.layers import HTTP, HTTP_ONE, Bench, our_cells, peer_cell
from service.bench.peers import DEFAULT, NOTES, THREADS, WORKERS, Running, missing_peers, running_peers
from service.bench.processes import stolen_seconds
from service.bench.report import Machine, Report, this_machine
from service.bench.servers import our_server, started
from service.bench.subjects import RUNTIMES, Subject, find_subjects
from service.bench.texts import Load, expected, make_load
from service.bench.visit import Cell, Samples, interleaved
from service.errors import BenchError
from service.model import Model
from service.runtime.machine import core_count

TEXTS_PER_REQUEST = {"question-answering": (1,), "text-classification": (1, 8)}
WARM_SECONDS = 0.5

Progress = Callable[[str, int], AbstractContextManager[Callable[[Cell], None]]]


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        models: folder of the artifacts.
        variants: of each model.
        rounds: visits of each cell.
        seconds: length of a visit.
        layouts: in which peers are set up; none leaves peers out.
        seed: of the texts.
        tokens: of each text, no more than the model takes; None is the length that each task's promises are of.
    """

    models: Path
    variants: tuple[str, ...] = tuple(RUNTIMES)
    rounds: int = 5
    seconds: float = 1.0
    layouts: tuple[str, ...] = (DEFAULT, THREADS, WORKERS)
    seed: int = 0
    tokens: int | None = None


def run(plan: Plan, *, progress: Progress, say: Callable[[str], None]) -> Report:
    """Measure; `say` is told what takes long before the first visit."""
    machine, stolen, began = this_machine(), stolen_seconds(), time.monotonic()
    say("loading models")
    notes: list[str] = []
    groups = find_subjects(plan.models, plan.variants, note=notes.append)
    notes += [*NOTES, *missing_peers()] if plan.layouts else ["peers were left out, as asked"]
    samples: Samples = {}
    loads: list[Load] = []
    with ExitStack() as stack:
        say("starting the service")
        bench = stack.enter_context(_bench(plan, groups))
        for group in groups:
            name = group[0].model.manifest.name
            say(f"starting the peers of {name}")
            with running_peers(group, plan.layouts, cores=bench.cores, note=notes.append) as peers:
                for load in loads_of(group[0].model, plan):
                    loads.append(load)
                    samples |= measured(bench, load, group, peers, plan, progress)
    stolen_share = (stolen_seconds() - stolen) / ((time.monotonic() - began) * machine.cores)
    return report_of(plan, replace(machine, stolen_share=stolen_share), loads, samples, notes)


def loads_of(model: Model, plan: Plan) -> list[Load]:
    """What a model is asked."""
    counts = TEXTS_PER_REQUEST[model.manifest.task]
    return [make_load(model, texts_per_request=texts, tokens=plan.tokens, seed=plan.seed) for texts in counts]


def measured(bench: Bench, load: Load, group: Sequence[Subject], peers: Sequence[Running], plan: Plan, progress: Progress) -> Samples:
    """Every cell of a load: once to warm up and to see what answers, then in rounds."""
    wanted = {subject.label: expected(load, subject.model) for subject in group}
    cells = [cell for subject in group for cell in our_cells(bench, load, subject, wanted[subject.label])]
    cells += [peer_cell(bench, load, peer, wanted[peer.subject.label]) for peer in peers]
    with progress(f"{load.name}, warming up", len(cells)) as step:
        warm = interleaved(cells, rounds=1, seconds=WARM_SECONDS, before=step)
    for cell in cells:
        if cell.layer in (HTTP, HTTP_ONE) and not warm[cell.key][0].requests:
            raise BenchError(f"the service answers nothing to {load.path}, {cell.variant}: {warm[cell.key][0].problem}")
    chosen = fastest(cells, warm)
    with progress(load.name, len(chosen) * plan.rounds) as step:
        return interleaved(chosen, rounds=plan.rounds, seconds=plan.seconds, before=step)


def fastest(cells: Sequence[Cell], warm: Samples) -> list[Cell]:
    """The cells without those that answered nothing, and with only the fastest of each peer's tuned layouts."""
    best: dict[tuple[str, str, str], tuple[float, Cell]] = {}
    for cell in cells:
        name, _, layout = cell.layer.partition(" (")
        tuned = layout not in ("", f"{DEFAULT})")
        key = (cell.load, cell.variant, f"{name}, tuned" if tuned else cell.layer)
        speed = warm[cell.key][0].requests_per_second
        if speed > best.get(key, (0.0, cell))[0]:
            best[key] = speed, cell
    return [cell for _, cell in best.values()]


def report_of(plan: Plan, machine: Machine, loads: Sequence[Load], samples: Samples, notes: Sequence[str]) -> Report:
    """The figures of all visits."""
    by_name = {load.name: load for load in loads}
    rows = tuple(row_of(key, visits, by_name[key[0]], cores=machine.cores) for key, visits in samples.items())
    pairs = dict.fromkeys((row.load, row.variant) for row in rows)
    compared = tuple(each for pair in pairs for each in comparisons(*pair, samples, cores=machine.cores))
    return Report(
        machine=machine,
        rounds=plan.rounds,
        seconds=plan.seconds,
        rows=rows,
        comparisons=compared,
        verdicts=(*(verdicts(loads, compared) if plan.tokens is None else ()), answer_verdict(rows)),
        notes=(*notes, *(_complaint(row) for row in rows if row.problem)),
    )


def _complaint(row: Row) -> str:
    """What was wrong with a cell's answers. Peers may choose another span where two are nearly as good."""
    kind = f"{row.failed} answers were not 200" if row.failed else f"{row.unexpected} answers were not as expected"
    return f"{row.load}, {row.variant}, {row.layer}: {kind}, such as {row.problem[:120]}"


@contextmanager
def _bench(plan: Plan, groups: Sequence[Sequence[Subject]]) -> Iterator[Bench]:
    """The service, the generator and the engine, running."""
    runtimes = {subject.key: subject.runtime for group in groups for subject in group}
    cores = core_count()
    with ExitStack() as stack:
        ours = stack.enter_context(started(our_server(plan.models, variants=list(runtimes), runtimes=runtimes)))
        generator = stack.enter_context(Generator())
        scheduler = stack.enter_context(running_scheduler(cores))
        ours.wait()
        ours.sleep()
        yield Bench(cores, generator, ours, scheduler)
