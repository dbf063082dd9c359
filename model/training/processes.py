"""Train in one process, or in several that `torchrun` starts and that train one network on joint batches."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

# How long a process waits for the others. PyTorch's own limits, 10 and 30 minutes, are shorter than the first process
# takes to look through a large data set, or to validate on one.
PATIENCE = timedelta(days=1)
# The variables that torchrun sets, with their values for a process that runs alone.
ENVIRONMENT = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


@dataclass(frozen=True)
class Processes:
    """Describe this process among those that train together.

    rank: number of this process, from 0.
    count: number of processes.
    device: where this process's network is.
    """

    rank: int
    count: int
    device: torch.device

    @classmethod
    def join(cls) -> "Processes":
        """Join the group that torchrun's environment describes (nccl with GPUs, else gloo), or stay alone."""
        rank, count, local = (int(os.environ.get(name, default)) for name, default in ENVIRONMENT)
        # The local rank counts on this machine, the rank over all machines.
        device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # The command and its trainer both join, and PyTorch refuses a second initialisation.
        if count > 1 and not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        return cls(rank, count, device)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let the first process go alone, then the others, which find what it has written (a cache, say)."""
        # One barrier, which the others meet on entering and the first one on leaving.
        if self.count > 1 and self.rank > 0:
            distributed.barrier()
        yield
        if self.count > 1 and self.rank == 0:
            distributed.barrier()

    def spread(self, network: nn.Module) -> nn.Module:
        """Wrap a network so that its backward averages gradients over the processes. It shares the parameters."""
        return network if self.count == 1 else DistributedDataParallel(network)

    def joint(self, rows: Tensor) -> Tensor:
        """Gather (B, ...) of each process into (count * B, ...) in all of them.

        Only this process's rows carry a gradient. Every process computes the same loss of the joint batch and takes
        `backward` through its own rows.
        """
        if self.count == 1:
            return rows
        # `all_gather` takes contiguous tensors only, and the mask's logits are channels last.
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(self.count)]
        distributed.all_gather(parts, rows.detach().contiguous())
        # The gathered copy of these rows has no gradient, so they are put back.
        return torch.cat([*parts[: self.rank], rows, *parts[self.rank + 1 :]])

    def backward(self, loss: Tensor) -> None:
        """Leave the gradients of a loss of `joint` rows in the parameters."""
        # `spread` averages the processes' gradients, but the gradient of the joint batch is their sum.
        (loss * self.count).backward()  # type: ignore[no-untyped-call]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process, so that all of them stop at the same step."""
        if self.count == 1:
            return flag
        total = torch.tensor(int(flag), device=self.device)
        distributed.all_reduce(total)
        return bool(total)
