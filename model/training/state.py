"""Resumable training state in one safetensors file: weights, optimiser moments, random state and place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from model.checkpoint import CheckpointError


def save_state(path: Path, model: nn.Module, optimizer: Optimizer, place: dict[str, Any]) -> None:
    """Write atomically, all tensors in full precision. `place` is JSON: epoch, settings, best score."""
    tensors = {f"model/{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": tensor.contiguous() for name, tensor in moments.items()}
    tensors["random"] = torch.get_rng_state()
    temporary = path.with_name(path.name + ".tmp")
    save_file(tensors, temporary, metadata={"place": json.dumps(place)})
    temporary.replace(path)


def load_state(path: Path, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Restore all of `save_state` and return `place`; raises CheckpointError where the file does not fit this model."""
    try:
        with safe_open(path, framework="pt") as file:
            place: dict[str, Any] = json.loads(file.metadata()["place"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        model.load_state_dict(_under(tensors, "model/"))
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a training state ({error}); leave --resume out to start anew") from None
    except RuntimeError:
        raise CheckpointError(
            f"{path} was trained with another preset or data; use its settings or another --output"
        ) from None
    optimizer.load_state_dict({**optimizer.state_dict(), "state": _moments(_under(tensors, "optimizer/"))})
    torch.set_rng_state(tensors["random"])
    return place


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _moments(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split("/")
        moments.setdefault(int(index), {})[name] = tensor
    return moments
