"""Several processes of one launch, by `torchrun` or `accelerate launch`: all of them train, the main one does everything else.

What the main process finds or makes is handed to the others, which wait for it. They wait in a process group of their own: on sockets,
without a GPU, and for as long as it takes. Torch is imported only where there are several: the command line asks here before it needs it.
"""

import atexit
import os
from collections.abc import Callable
from contextvars import ContextVar
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from service.errors import SecateurError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")

LONGEST_WAIT = timedelta(days=30)
_by_itself: ContextVar[bool] = ContextVar("by_itself", default=False)


def process_count() -> int:
    """Processes of this launch; 1 without a launcher."""
    return int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1


def process_index() -> int:
    """Which of them this one is, counted from 0."""
    return int(os.environ["RANK"]) if "LOCAL_RANK" in os.environ else 0


def is_main() -> bool:
    """Whether this is the process that writes, measures and reports."""
    return process_index() == 0


def from_main(make: Callable[[], T], *, meanwhile: Callable[[], object] | None = None) -> T:
    """What `make` returns in the main process, in every process. All of them call this, in the same order.

    Args:
        make: called by the main process alone; what it calls may call this function too, and nobody else has to.
        meanwhile: what the others do, if the main process cannot do it without them; they wait without it.

    Raises:
        SecateurError: the main process came to that by itself; it is raised in all of them.
    """
    if process_count() == 1 or _by_itself.get():
        return make()
    from torch import distributed

    group, found = _group(), list[Any]([None])
    if is_main():
        before = _by_itself.set(meanwhile is None)
        try:
            found = [make()]
        except SecateurError as error:
            if meanwhile is not None:
                raise
            found = [error]
        finally:
            _by_itself.reset(before)
    elif meanwhile is not None:
        meanwhile()
    distributed.broadcast_object_list(found, src=0, group=group)
    if isinstance(found[0], SecateurError):
        raise found[0]
    return cast(T, found[0])


@cache
def _group() -> "ProcessGroup":
    """Made by all processes at once, with the group that they train in if there is none yet."""
    from torch import distributed

    if not distributed.is_initialized():
        distributed.init_process_group()  # gloo for what is on the CPU, nccl for what is on GPUs
    atexit.register(_leave)
    group: ProcessGroup = distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
    return group


def _leave() -> None:
    """Without this, the threads of gloo abort a process at its end."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
