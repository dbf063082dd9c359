"""Define what crosses the wire: tensor names, types and shapes, in one place.

Export, engines, repository, server and client all read this module, so a name is never repeated by hand. It needs
neither torch nor DALI: the client depends on it.
"""

import json
from dataclasses import dataclass
from typing import Any

from data_pipeline.spec import SIXTEEN_BITS, Preprocessing

PIPELINE_MODEL = "resformer"
NETWORK_MODEL = "resformer_network"
PROBE_ID = "probe"  # the id of the supervisor's own requests, which the log leaves out
# Request header of a token over gRPC, which the server checks itself; over HTTP it is "Authorization: Bearer TOKEN".
GRPC_TOKEN_HEADER = "triton-grpc-protocol-resformer-token"


@dataclass(frozen=True)
class TensorSpec:
    """Describe one tensor.

    dtype: the server's name of the type (UINT8, FP32).
    shape: lengths without the batch; -1 is any length.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Describe what a served checkpoint takes and gives.

    preprocessing: what becomes of an image before the network sees it, as in training.
    seg_classes: names of the mask's values, "background" first. Two are one sigmoid channel, more are a softmax.
    labels: names of the image-level labels; each has its own sigmoid probability (several may be present).
    max_batch: largest batch the engines take.
    """

    preprocessing: Preprocessing
    seg_classes: tuple[str, ...]
    labels: tuple[str, ...]
    max_batch: int = 8

    @property
    def image_size(self) -> int:
        """Return the side S of the network's square input, in pixels."""
        return self.preprocessing.image_size

    @property
    def seg_channels(self) -> int:
        """Return K: 1 where the mask is binary (sigmoid), else one channel a class (softmax)."""
        return 1 if len(self.seg_classes) == 2 else len(self.seg_classes)

    @property
    def encoded_image(self) -> TensorSpec:
        """Describe the bytes of one JPEG, PNG or TIFF file; rows of a batch are padded with zeros to equal length."""
        return TensorSpec("IMAGE", "UINT8", (-1,))

    @property
    def network_input(self) -> TensorSpec:
        """Describe the normalised RGB image, channels first."""
        return TensorSpec("INPUT", "FP32", (3, self.image_size, self.image_size))

    @property
    def outputs(self) -> tuple[TensorSpec, TensorSpec, TensorSpec]:
        """Describe MASK (class index a pixel), CLASS_PROBS (one a label), SEG_PROBS (probabilities before argmax)."""
        side = self.image_size
        return (
            TensorSpec("MASK", "UINT8", (side, side)),
            TensorSpec("CLASS_PROBS", "FP32", (len(self.labels),)),
            TensorSpec("SEG_PROBS", "FP32", (self.seg_channels, side, side)),
        )

    def to_fields(self) -> dict[str, Any]:
        """Return the contract as flat JSON-able fields, as reports and repositories carry it."""
        return {
            "image_size": self.image_size,
            "seg_classes": self.seg_classes,
            "labels": self.labels,
            "mean": self.preprocessing.mean,
            "std": self.preprocessing.std,
            "levels": self.preprocessing.white_level,  # the name of older files, which stay readable
            "max_batch": self.max_batch,
        }

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> "Contract":
        """Return the contract of `to_fields`, also after JSON; raises ValueError for a missing or unknown field."""
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        try:
            preprocessing = Preprocessing(
                given.pop("image_size"), given.pop("mean"), given.pop("std"), given.pop("levels", SIXTEEN_BITS)
            )
            return cls(preprocessing=preprocessing, **given)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a served-model contract: {error}") from None

    def to_json(self) -> str:
        """Return the contract as one line of JSON, as the repository's configuration carries it."""
        return json.dumps(self.to_fields())

    @classmethod
    def from_json(cls, text: str) -> "Contract":
        """Return the contract of `to_json`; raises ValueError where the text is none."""
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError(f"not a served-model contract: {text[:40]!r}")
        return cls.from_fields(fields)
