"""Read and write checkpoints: one safetensors file with the weights and, as JSON metadata, all that their use needs."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from data_pipeline.fields import (
    MOST_CLASSES,
    MOST_LABELS,
    object_of,
    read_object,
    require,
    require_keys,
    require_names,
    shown,
)
from data_pipeline.files import whole_file
from data_pipeline.spec import SIXTEEN_BITS, Preprocessing
from model.calibration import Calibration
from model.config import ModelConfig, resolve_config
from model.network import MultiTaskResFormer, build_model

FORMAT = "resformer-deploy/1"
COUNTER = "num_batches_tracked"  # ends the name of a batch norm's number of steps
RANDOM_PREFIX = "random:"


class CheckpointError(Exception):
    """Report a checkpoint that cannot be used, in one line that says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """Describe what the weights mean.

    Raises ValueError where a field breaks its rule or does not fit the network's shape.

    config: shape of the network.
    seg_classes: names of the mask's values, background first. A name is one line of text.
    labels: names of the image-level outputs. A name is one line of text.
    data: source it was trained on, as `--data` takes it.
    preprocessing: what the network expects of every image.
    training: command, seed, epoch and validation scores, for the reader.
    calibration: of the labels' probabilities, or None for weights that never were calibrated.
    """

    config: ModelConfig
    seg_classes: tuple[str, ...]
    labels: tuple[str, ...]
    data: str
    preprocessing: Preprocessing
    training: dict[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        require_names(self.seg_classes, "seg_classes", 2, MOST_CLASSES)
        require_names(self.labels, "labels", 1, MOST_LABELS)
        classes, labels, size = self.config.classes, self.config.labels, self.config.image_size
        require(len(self.seg_classes) == classes, "seg_classes", f"{classes} names for this network", self.seg_classes)
        require(len(self.labels) == labels, "labels", f"{labels} names for this network", self.labels)
        require(isinstance(self.data, str) and bool(self.data), "data", "the text of a data source", self.data)
        own_size = self.preprocessing.image_size
        require(own_size == size, "image_size of the preprocessing", f"the network's, {size}", own_size)
        require(isinstance(self.training, dict), "training", "a JSON object", self.training)
        if self.calibration:
            temperatures = self.calibration.temperatures
            require(len(temperatures) == labels, "temperatures", f"{labels} for this network", temperatures)

    def to_json(self) -> str:
        """Return the metadata as JSON, in the flat form that every version of the format has."""
        flat = asdict(self)
        # Left out where there is none, so that an older version of this project reads the file.
        if flat["calibration"] is None:
            del flat["calibration"]
        # The image size is already in `config`. In the file the white level has its older name, "levels".
        preprocessing = flat.pop("preprocessing")
        scale = {"mean": preprocessing["mean"], "std": preprocessing["std"], "levels": preprocessing["white_level"]}
        return json.dumps(flat | scale)

    @classmethod
    def from_json(cls, text: str) -> "CheckpointInfo":
        """Read what `to_json` wrote.

        Raises ValueError where the text is something else, with the field, its rule and the value.
        """
        flat = read_object(text, "the metadata")
        parts = ("config", "seg_classes", "labels", "data", "mean", "std", "training")
        # Checkpoints from before "levels" was an option do not have it.
        require_keys(flat, "the metadata", parts, optional=("levels", "calibration"))
        shape = object_of(flat["config"], "config")
        # Those from before the decoder had a choice do not have this one.
        optional = ("full_resolution",)
        needed = [each.name for each in fields(ModelConfig) if each.name not in optional]
        require_keys(shape, "config", needed, optional=optional)
        config = ModelConfig(**shape)
        preprocessing = Preprocessing(
            image_size=config.image_size,
            mean=flat["mean"],
            std=flat["std"],
            white_level=flat.get("levels", SIXTEEN_BITS),
        )
        return cls(
            config=config,
            seg_classes=flat["seg_classes"],
            labels=flat["labels"],
            data=flat["data"],
            preprocessing=preprocessing,
            training=flat["training"],
            calibration=Calibration.from_fields(flat["calibration"]) if "calibration" in flat else None,
        )


@dataclass(frozen=True)
class Checkpoint:
    """Hold weights and their meaning."""

    info: CheckpointInfo
    state: dict[str, Tensor]

    def build(self) -> MultiTaskResFormer:
        """Build the network with these weights, in evaluation mode, with the logits of its labels calibrated.

        Raises CheckpointError where they do not fit their own configuration.
        """
        model = build_model(self.info.config)
        try:
            model.load_state_dict(self.state)
        except RuntimeError as error:
            raise CheckpointError(f"the weights do not fit their own configuration: {_first_mismatch(error)}") from None
        if self.info.calibration:
            model.head.divide_logits(torch.tensor(self.info.calibration.temperatures))
        return model.eval()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole or not at all.

    Matrices and kernels are stored as fp16 where that holds them, vectors (norms, biases, running statistics) as they
    are. Raises CheckpointError where it cannot be written, or holds weights that are not finite.
    """
    _check_values(path, checkpoint.state)
    tensors = {name: _on_disk(tensor) for name, tensor in checkpoint.state.items()}
    write_tensors(path, tensors, {"format": FORMAT, "info": checkpoint.info.to_json()})


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file whole or not at all.

    Raises CheckpointError (on a full disk) and leaves an older file as it is.
    """
    try:
        with whole_file(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot write {path} ({_one_line(error)}); an older one is left as it was") from None


def _on_disk(tensor: Tensor) -> Tensor:
    # Safetensors refuses tensors that are not contiguous, as training's channels-last kernels are.
    tensor = tensor.detach().cpu().contiguous()
    if not tensor.is_floating_point() or tensor.ndim < 2:
        # The vectors are a small part of the file, and counts of batches are integers.
        return tensor
    half = tensor.half()
    # Above 65504 it would be infinite.
    return half if bool(torch.isfinite(half).all()) else tensor


def load_checkpoint(source: str | Path) -> Checkpoint:
    """Read a checkpoint file, or make one of seeded random weights.

    Args:
        source: a .safetensors file, or `random:PRESET` for seeded random weights, for timing.

    Returns:
        The checkpoint, its floating-point tensors in float32.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind, or holds weights that are not finite.
    """
    if str(source).startswith(RANDOM_PREFIX):
        return _random_checkpoint(str(source).removeprefix(RANDOM_PREFIX))
    path = Path(source)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist; give a .safetensors file or random:PRESET")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: _in_memory(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read as safetensors ({_one_line(error)})") from None
    _check_values(path, state)
    return Checkpoint(_parse_info(path, metadata), state)


def _in_memory(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _check_values(path: Path, state: dict[str, Tensor]) -> None:
    # Batch norms count their steps. All else would be taken for weights, whatever scale it needs.
    other = [name for name, tensor in state.items() if not tensor.is_floating_point() and not name.endswith(COUNTER)]
    if other:
        kind = str(state[other[0]].dtype).removeprefix("torch.")
        raise CheckpointError(
            f"checkpoint {path} must hold floating-point weights, got {kind} in {len(other)} tensors, first in "
            f"{other[0]}; save them as float32"
        )
    bad = [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise CheckpointError(
            f"checkpoint {path} holds NaN or infinite weights in {len(bad)} tensors, first in {bad[0]}"
        )


def _parse_info(path: Path, metadata: dict[str, str]) -> CheckpointInfo:
    if metadata.get("format") != FORMAT:
        found = shown(metadata.get("format"))
        raise CheckpointError(f"checkpoint {path} has format {found}, expected '{FORMAT}', as of best.safetensors")
    try:
        return CheckpointInfo.from_json(metadata.get("info", ""))
    except ValueError as error:
        raise CheckpointError(f"checkpoint {path} has unusable metadata: {_one_line(error)}") from None


def _random_checkpoint(preset: str) -> Checkpoint:
    try:
        config = resolve_config(preset)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    # The same weights at every call, and the caller's own random state is left as it was.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = build_model(config).state_dict()
    masks = ("lesion",) if config.seg_channels == 1 else tuple(f"class_{i}" for i in range(1, config.seg_channels))
    labels = tuple(f"label_{i}" for i in range(config.labels))
    info = CheckpointInfo(
        config=config,
        seg_classes=("background", *masks),
        labels=labels,
        data=f"{RANDOM_PREFIX}{preset}",
        preprocessing=Preprocessing(image_size=config.image_size),
    )
    return Checkpoint(info, state)


def _first_mismatch(error: RuntimeError) -> str:
    # PyTorch's first line only says that there are errors. The second names the first of them.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 else lines[0]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
