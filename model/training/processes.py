"""One process, or several started by `torchrun` that train one network on joint batches."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

ENVIRONMENT = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))  # as torchrun sets them, and alone


@dataclass(frozen=True)
class Processes:
    """rank: this process's number of `count`. device: where its network lives."""

    rank: int
    count: int
    device: torch.device

    @classmethod
    def join(cls) -> "Processes":
        """The group that torchrun's environment describes (nccl with GPUs, else gloo), or this process alone."""
        rank, count, local = (int(os.environ.get(name, default)) for name, default in ENVIRONMENT)
        device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if count > 1 and not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(rank, count, device)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process alone, then the others: what they would write, a cache say, is then there."""
        if self.count > 1 and self.rank > 0:
            distributed.barrier()
        yield
        if self.count > 1 and self.rank == 0:
            distributed.barrier()

    def spread(self, network: nn.Module) -> nn.Module:
        """The network whose backward averages gradients over the processes; it shares `network`'s parameters."""
        return network if self.count == 1 else DistributedDataParallel(network)

    def joint(self, rows: Tensor) -> Tensor:
        """(B, ...) of each process to (count * B, ...) in all of them; only this process's rows carry a gradient.

        Every process computes the same loss of the joint batch and takes `backward` back through its own rows;
        `spread` averages, so that the mean times `count` is the gradient of one process with that batch.
        """
        if self.count == 1:
            return rows
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(self.count)]
        distributed.all_gather(parts, rows.detach().contiguous())
        return torch.cat([*parts[: self.rank], rows, *parts[self.rank + 1 :]])

    def backward(self, loss: Tensor) -> None:
        """Leave the gradients of a loss of `joint` rows in the parameters."""
        (loss * self.count).backward()  # type: ignore[no-untyped-call]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process, so that all of them stop at the same step."""
        if self.count == 1:
            return flag
        total = torch.tensor(int(flag), device=self.device)
        distributed.all_reduce(total)
        return bool(total)
