"""The processes that train one policy together, started by `torchrun` on one machine or on several.

Each computes its part of every batch. Their gradients are added up, so that all make the step that one process would
make with the whole batch (`vla.training.one_batch` sees to what looks beyond a part). The first process alone writes
files, validates, and talks.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from vla.errors import EXIT_INTERRUPTED, EXIT_MACHINE_FAULT, EXIT_USER_ERROR, UserError
from vla.policies.batch import Batch
from vla.policies.devices import choose_device
from vla.policies.network import Losses, TrainableNetwork
from vla.training.one_batch import one_batch
from vla.training.recipes import Recipe

_LONGEST_VALIDATION = timedelta(days=7)
_UNTIL_ENDED_S = 20
"""Seconds that a process waits in silence to be ended by torchrun, after another one has said what happened."""
T = TypeVar("T")


class Part(NamedTuple):
    """What one process computes of a batch."""

    batch: Batch
    """Some neighbouring segments of the whole, numbered from 0."""
    others: tuple[int, int]
    """Numbers of segments before and after them."""
    windows: slice
    """Their windows in the whole."""
    whole: Batch

    @property
    def is_whole(self) -> bool:
        """Whether this process computes all of the batch."""
        return self.batch is self.whole


@dataclass(frozen=True)
class Processes:
    """The processes of a training, and this one's place among them."""

    rank: int = 0
    """Number of this process: 0, 1, ..."""
    count: int = 1
    waiting: ProcessGroup | None = None
    """The same processes, with all the time in the world; None in a single process."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def check_batch(self, recipe: Recipe) -> None:
        """Check that a batch can be shared out equally.

        Raises:
            UserError: it cannot.
        """
        segments = recipe.batch_segments
        if segments % self.count:
            multiple = self.count * recipe.windows_per_segment
            near = max(1, round(segments / self.count)) * multiple
            raise UserError(
                f"{self.count} processes cannot share a batch of {recipe.batch_windows} windows equally; give a "
                f"multiple of {multiple}, such as --batch-windows {near}, or another number of processes"
            )

    def part_of(self, whole: Batch) -> Part:
        """This process's part of a batch on the CPU.

        The last batch of an epoch may be smaller than the others, and the parts then differ in size. Where it has fewer
        segments than there are processes, each of them computes the whole.
        """
        segments = int(whole.segments[-1]) + 1
        if segments < self.count or self.count == 1:
            return Part(whole, (0, 0), slice(0, len(whole.windows)), whole)
        first, last = (segments * rank // self.count for rank in (self.rank, self.rank + 1))
        edges = torch.tensor([first, last])
        frames = slice(*torch.searchsorted(whole.segments, edges).tolist())
        windows = slice(*torch.searchsorted(whole.segments[whole.windows[:, -1]], edges).tolist())
        batch = Batch(
            frames=whole.frames[frames],
            segments=whole.segments[frames] - first,
            windows=whole.windows[windows] - frames.start,
            actions=whole.actions[windows],
            mask=whole.mask[windows],
            positions=whole.positions[frames],
            present=None if whole.present is None else whole.present[frames],
            named=whole.named[windows],
            proprioception=whole.proprioception[frames],
            instructions=whole.instructions[windows],
        )
        return Part(batch, (first, segments - last), windows, whole)

    def forward(self, part: Part) -> contextlib.AbstractContextManager[object]:
        """Context of the network's pass over a part, so that it sees what one process would see."""
        if part.is_whole:
            return contextlib.nullcontext()
        return one_batch(part.windows, len(part.whole.windows))

    def joined(self, network: TrainableNetwork) -> TrainableNetwork:
        """The network with gradients that are means over the processes; in a single process, the network itself.

        To be made anew for every epoch: torch sorts the gradients into other buckets after the first step, and the sum
        of three numbers depends on their order. A resumed run would otherwise differ from an unbroken one.
        """
        if self.count == 1:
            return network
        # The statistics of batch normalisation are the same everywhere, and need not be sent around.
        return cast(TrainableNetwork, DistributedDataParallel(cast(nn.Module, network), broadcast_buffers=False))

    def backward(self, total: Tensor, part: Part) -> None:
        """Compute the gradients of the whole batch's loss from this process's share of it."""
        # `joined` takes the mean over the processes, and the sum is wanted.
        (total if part.is_whole else total * self.count).backward()

    def add_up(self, losses: Losses, part: Part) -> Losses:
        """The losses of the whole batch, from this process's shares of them."""
        if part.is_whole:
            return losses
        sums = torch.stack(losses).detach()
        dist.all_reduce(sums)
        return Losses(*sums)

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` returns in the first process, in all of them; the others do not call it."""
        made = [make() if self.is_first else None]
        if self.waiting is not None:
            dist.broadcast_object_list(made, group=self.waiting)
        return cast(T, made[0])

    def wait(self) -> None:
        """Wait until all processes have come here, however long the first one validates."""
        if self.waiting is not None:
            dist.barrier(group=self.waiting)


@contextlib.contextmanager
def join(device: str) -> Iterator[Processes]:
    """Meet the processes that torchrun started with this one; all but the first print nothing.

    Args:
        device: value of --device, the same everywhere. Each process takes a GPU of its own.

    Raises:
        UserError: this machine has fewer GPUs than processes.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    backend = "gloo"
    if choose_device(device).type == "cuda":
        backend = "nccl"
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise UserError(
                f"each process needs a GPU of its own, and this machine has {gpus}; "
                f"start torchrun with --nproc-per-node {gpus}, or add --device cpu"
            )
        torch.cuda.set_device(local)
    dist.init_process_group(backend)
    waiting = dist.new_group(backend="gloo", timeout=_LONGEST_VALIDATION)
    assert isinstance(waiting, ProcessGroup)
    processes = Processes(dist.get_rank(), count, waiting)
    with contextlib.nullcontext() if processes.is_first else _silence():
        yield processes
    # Not after an error: the others would notice, and report it as a lost connection.
    dist.destroy_process_group()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


@contextlib.contextmanager
def end_together() -> Iterator[None]:
    """Let the process that fails first say so, and the others end in silence.

    They make the same mistake at the same time, or lose their connection to the one that failed.

    Raises:
        SystemExit: another process has failed before this one.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, SystemExit) or _is_first_to_fail():
            raise
        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(EXIT_INTERRUPTED) from None
        time.sleep(_UNTIL_ENDED_S)  # torchrun ends this process when the first one has ended, as soon as it has spoken
        raise SystemExit(EXIT_USER_ERROR if isinstance(error, UserError) else EXIT_MACHINE_FAULT) from None


def _is_first_to_fail() -> bool:
    """Whether none of the processes has asked before; asked in the store that torchrun keeps for them."""
    variables = os.environ
    if variables.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=10)))
        return store.add(f"failed in attempt {variables['TORCHELASTIC_RESTART_COUNT']}", 1) == 1
    except RuntimeError:  # the first machine's torchrun has ended: its processes have spoken, but on another screen
        return variables["LOCAL_RANK"] == "0"
