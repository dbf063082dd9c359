"""Save and load training state in one safetensors file: weights, their average, optimiser moments and place."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.checkpoint import CheckpointError, write_tensors
from model.training.learner import Learner


def save_state(path: Path, learner: Learner, place: dict[str, Any]) -> None:
    """Write the state whole or not at all, with all tensors in full precision.

    Args:
        path: file to write.
        learner: gives weights, average and moments.
        place: options, place in the data and scores so far, as JSON takes them.
    """
    # Contiguous, because safetensors refuses the channels-last kernels as they are.
    tensors = {f"model/{name}": tensor.contiguous() for name, tensor in learner.network.state_dict().items()}
    tensors |= {f"average/{name}": tensor.contiguous() for name, tensor in learner.average.state_dict().items()}
    # The optimiser's groups are left out: they follow from the options.
    for index, moments in learner.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": tensor.contiguous() for name, tensor in moments.items()}
    write_tensors(path, tensors, {"place": json.dumps(place)})


def load_state(path: Path, learner: Learner) -> dict[str, Any]:
    """Restore all of `save_state` and return its `place`.

    Raises CheckpointError where the file does not fit this model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            place: dict[str, Any] = json.loads(file.metadata()["place"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        learner.network.load_state_dict(_under(tensors, "model/"))
        learner.average.load_state_dict(_under(tensors, "average/"))
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        # A checkpoint of ours has metadata without a place (KeyError), a foreign file none at all (TypeError).
        raise CheckpointError(f"{path} is not a training state ({error}); omit --resume to start again") from None
    except RuntimeError:
        # From `load_state_dict`: names or shapes differ.
        raise CheckpointError(
            f"{path} was trained with another preset or data; use its settings or another --output"
        ) from None
    moments = _moments(_under(tensors, "optimizer/"))
    learner.optimizer.load_state_dict({**learner.optimizer.state_dict(), "state": moments})
    return place


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _moments(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split("/")
        moments.setdefault(int(index), {})[name] = tensor
    return moments
