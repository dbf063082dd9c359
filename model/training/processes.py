"""One process, or several started by `torchrun` that train one network on joint batches."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_gather
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """rank: this process's number of `count`. device: where its network lives."""

    rank: int
    count: int
    device: torch.device

    @classmethod
    def join(cls) -> Processes:
        """The group that torchrun's environment describes (nccl with GPUs, else gloo), or this process alone."""
        rank, count, local = (int(os.environ.get(name, default)) for name, default in ENVIRONMENT)
        device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if count > 1 and not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(rank, count, device)

    def spread(self, network: nn.Module) -> nn.Module:
        """The network whose backward averages gradients over the processes; it shares `network`'s parameters."""
        return network if self.count == 1 else DistributedDataParallel(network)

    def joint(self, rows: Tensor) -> Tensor:
        """(B, ...) of each process to (count * B, ...) in all of them.

        Differentiable. As every process then computes the same loss of the joint batch, and as gathering sums what
        flows back while `spread` averages, the gradients are those of one process with that batch.
        """
        return rows if self.count == 1 else torch.cat(all_gather(rows.contiguous()))  # type: ignore[no-untyped-call]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process, so that all of them stop at the same step."""
        if self.count == 1:
            return flag
        total = torch.tensor(int(flag), device=self.device)
        distributed.all_reduce(total)
        return bool(total)


ENVIRONMENT = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
