"""Take first weights from elsewhere: a ResNet34 as torchvision names its tensors, or a checkpoint of this project."""

import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from model.checkpoint import CheckpointError

EXPECTED = "give a state_dict as torch.save writes it, or a .safetensors file"
NESTED = ("state_dict", "model_state_dict", "model")
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# torchvision's names -> ours, tried in this order. The stem's are followed by the tensor's own name and nothing else:
# "conv1.0.weight" is a tensor of some other network.
RENAMES = (
    (r"conv1\.(?=\w+$)", "encoder.stem.0.conv."),
    (r"bn1\.(?=\w+$)", "encoder.stem.0.norm."),
    (r"layer(\d)\.(\d+)\.conv(\d)\.", r"encoder.stages.\1.res.\2.conv\3.conv."),
    (r"layer(\d)\.(\d+)\.bn(\d)\.", r"encoder.stages.\1.res.\2.conv\3.norm."),
    (r"layer(\d)\.(\d+)\.downsample\.0\.", r"encoder.stages.\1.res.\2.shortcut.conv."),
    (r"layer(\d)\.(\d+)\.downsample\.1\.", r"encoder.stages.\1.res.\2.shortcut.norm."),
)


def load_pretrained(network: nn.Module, source: str) -> str:
    """Copy every tensor whose name and shape fit into the network.

    Args:
        network: gets the weights.
        source: a .safetensors file, a torch file, or the URL of a torch file (which stays in torch's cache).

    Returns:
        A line that says how many tensors fitted.

    Raises:
        CheckpointError: the source cannot be read, or nothing of it fits.
    """
    given = {our_name(name): tensor for name, tensor in _read(source).items()}
    own = network.state_dict()
    matching = {name: tensor for name, tensor in given.items() if name in own and own[name].shape == tensor.shape}
    if not matching:
        raise CheckpointError(
            f"no tensor of {source} has a name and shape of this network; it has {_named(given)}, the network "
            f"{_named(own)}"
        )
    if other := [name for name, tensor in matching.items() if not _converts(tensor, own[name])]:
        kind = matching[other[0]].dtype
        raise CheckpointError(
            f"{source} holds {kind} weights in {len(other)} tensors, first in {other[0]}; save them as float32"
        )
    # In the network's own type, in which large float64 values are infinite.
    matching = {name: tensor.to(own[name].dtype) for name, tensor in matching.items()}
    bad = [name for name, tensor in matching.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise CheckpointError(f"{source} holds NaN or infinite weights in {len(bad)} tensors, first in {bad[0]}")
    # With its own tensors in the gaps: a state that lacks some would be refused.
    network.load_state_dict({**own, **matching})
    unknown = sum(name not in own for name in given)
    return (
        f"{source}: took {len(matching)} of its {len(given)} tensors for {len(own)} of the network; "
        f"{unknown} have no place here, {len(given) - unknown - len(matching)} another shape"
    )


def our_name(name: str) -> str:
    """Translate the name of a tensor of torchvision's ResNet into ours, and leave other names as they are."""
    for pattern, ours in RENAMES:
        match = re.match(pattern, name)
        if match:
            # torchvision counts layers from 1, our stages from 0.
            prefix = re.sub(r"(?<=stages\.)\d", lambda stage: str(int(stage[0]) - 1), match.expand(ours))
            return prefix + name[match.end() :]
    return name


def _read(source: str) -> dict[str, Tensor]:
    try:
        # `weights_only`: a file from elsewhere must not run code when it is unpickled.
        if source.startswith(("https://", "http://")):
            tensors = torch.hub.load_state_dict_from_url(source, map_location="cpu", weights_only=True)
        elif Path(source).suffix == ".safetensors":
            tensors = load_file(source)
        else:
            tensors = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling foreign bytes raises whatever their opcodes meet
        # PyTorch's messages are paragraphs of advice: their first sentence says what happened.
        reason = f"{type(error).__name__}: {error}".splitlines()[0].split(". ")[0]
        raise CheckpointError(f"--pretrained {source} cannot be read as weights ({reason}); {EXPECTED}") from None
    if not isinstance(tensors, dict):
        raise CheckpointError(f"--pretrained {source} holds a {type(tensors).__name__}; {EXPECTED}")
    # Trainers keep the weights beside their own state, and wrap the network.
    inner = next((tensors[name] for name in NESTED if isinstance(tensors.get(name), dict)), tensors)
    return {name.removeprefix("module."): tensor for name, tensor in inner.items() if _is_weight(name, tensor)}


def _is_weight(name: object, tensor: object) -> bool:
    # A dictionary may hold other things, as an epoch or an optimiser's state.
    dense = isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_complex()
    return isinstance(name, str) and dense


def _converts(given: Tensor, own: Tensor) -> bool:
    """Tell whether a tensor has values that mean the same in the type of the network's own."""
    # A meta tensor has none, and those of a quantised one or of 8 bits need a scale. The rest are numbers of steps.
    has_values = not given.is_meta and not given.is_quantized
    return has_values and (given.dtype in FLOATS or not own.is_floating_point())


def _named(tensors: dict[str, Tensor]) -> str:
    """Name the first tensor with its shape, so that a reader sees why nothing fits."""
    return next((f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items()), "none")
