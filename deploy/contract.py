"""What crosses the wire: tensor names, types and shapes, in one place.

Export, engines, repository, server and client all read this module, so a name is never repeated by hand. It imports
neither torch nor DALI: the client depends on it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_pipeline import Preprocessing

PIPELINE_MODEL = "resformer"
NETWORK_MODEL = "resformer_network"
PROBE_ID = "probe"  # the id of the supervisor's own requests, which the log leaves out
# Request header of a token over gRPC, which the server checks itself; over HTTP it is "Authorization: Bearer TOKEN".
GRPC_TOKEN_HEADER = "triton-grpc-protocol-resformer-token"


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: `dtype` is the server's name of it (UINT8, FP32); `shape` leaves the batch out, -1 is any length."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Contract:
    """What a served checkpoint takes and gives.

    image_size: side S of the network's square input, in pixels.
    seg_classes: names of the mask's values, "background" first. Two are one sigmoid channel, more are a softmax.
    labels: names of the image-level labels; each has its own sigmoid probability (several may be present).
    mean, std: normalisation of RGB values scaled to [0, 1], as in training.
    levels: the level that is scaled to 1 in files of 16 bits, as in training.
    max_batch: largest batch the engines take.
    """

    image_size: int
    seg_classes: tuple[str, ...]
    labels: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    levels: int = 65535
    max_batch: int = 8

    @property
    def seg_channels(self) -> int:
        """K: 1 where the mask is binary (sigmoid), else one channel a class (softmax)."""
        return 1 if len(self.seg_classes) == 2 else len(self.seg_classes)

    @property
    def preprocessing(self) -> Preprocessing:
        """What the pipeline makes of an image before the network sees it."""
        from data_pipeline import Preprocessing  # not above: the client has no data pipeline

        return Preprocessing(self.image_size, self.mean, self.std, self.levels)

    @property
    def encoded_image(self) -> TensorSpec:
        """The bytes of one JPEG, PNG or TIFF file; rows of a batch are padded with zeros to equal length."""
        return TensorSpec("IMAGE", "UINT8", (-1,))

    @property
    def network_input(self) -> TensorSpec:
        """The normalised RGB image, channels first."""
        return TensorSpec("INPUT", "FP32", (3, self.image_size, self.image_size))

    @property
    def outputs(self) -> tuple[TensorSpec, TensorSpec, TensorSpec]:
        """MASK (class index a pixel), CLASS_PROBS (one a label), SEG_PROBS (probabilities before the argmax)."""
        side = self.image_size
        return (
            TensorSpec("MASK", "UINT8", (side, side)),
            TensorSpec("CLASS_PROBS", "FP32", (len(self.labels),)),
            TensorSpec("SEG_PROBS", "FP32", (self.seg_channels, side, side)),
        )

    def to_json(self) -> str:
        """The contract as one line of JSON, as the repository's configuration carries it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Contract:
        """The contract back from `to_json`; raises ValueError where a field is missing or unknown."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()
        }
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"not a served-model contract: {error}") from None
