"""First weights from elsewhere: a ResNet34 as torchvision names its tensors, or a checkpoint of ours."""

import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from model.checkpoint import CheckpointError

EXPECTED = "give a state_dict as torch.save writes it, or a .safetensors file"
# torchvision's names -> ours, tried in this order
RENAMES = (
    (r"conv1\.(?=\w+$)", "encoder.stem.0.conv."),
    (r"bn1\.(?=\w+$)", "encoder.stem.0.norm."),
    (r"layer(\d)\.(\d+)\.conv(\d)\.", r"encoder.stages.\1.res.\2.conv\3.conv."),
    (r"layer(\d)\.(\d+)\.bn(\d)\.", r"encoder.stages.\1.res.\2.conv\3.norm."),
    (r"layer(\d)\.(\d+)\.downsample\.0\.", r"encoder.stages.\1.res.\2.shortcut.conv."),
    (r"layer(\d)\.(\d+)\.downsample\.1\.", r"encoder.stages.\1.res.\2.shortcut.norm."),
)


def load_pretrained(network: nn.Module, source: str) -> str:
    """Copy every tensor of `source` whose name and shape fit into the network; returns a line that says how many did.

    source: a .safetensors file, a torch file, or the URL of a torch file (kept in torch's cache).
    Raises CheckpointError where it cannot be read or nothing fits.
    """
    given = {our_name(name): tensor for name, tensor in _read(source).items()}
    own = network.state_dict()
    matching = {name: tensor for name, tensor in given.items() if name in own and own[name].shape == tensor.shape}
    if not matching:
        raise CheckpointError(f"no tensor of {source} has a name and shape of this network; choose another --preset")
    network.load_state_dict({**own, **matching})
    unknown = sum(name not in own for name in given)
    return (
        f"{source}: took {len(matching)} of its {len(given)} tensors for {len(own)} of the network; "
        f"{unknown} have no place here, {len(given) - unknown - len(matching)} another shape"
    )


def our_name(name: str) -> str:
    """The name in our network of a tensor of torchvision's ResNet; other names are left as they are."""
    for pattern, ours in RENAMES:
        found = re.match(pattern, name)
        if found:
            # torchvision counts layers from 1, our stages from 0
            prefix = re.sub(r"(?<=stages\.)\d", lambda stage: str(int(stage[0]) - 1), found.expand(ours))
            return prefix + name[found.end() :]
    return name


def _read(source: str) -> dict[str, Tensor]:
    try:
        if source.startswith(("https://", "http://")):
            tensors = torch.hub.load_state_dict_from_url(source, map_location="cpu", weights_only=True)
        elif Path(source).suffix == ".safetensors":
            tensors = load_file(source)
        else:
            tensors = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling foreign bytes raises whatever their opcodes meet
        reason = f"{type(error).__name__}: {error}".splitlines()[0].split(". ")[0]
        raise CheckpointError(f"--pretrained {source} cannot be read as weights ({reason}); {EXPECTED}") from None
    if not isinstance(tensors, dict):
        raise CheckpointError(f"--pretrained {source} holds a {type(tensors).__name__}; {EXPECTED}")
    return {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
