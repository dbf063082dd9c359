"""Define what crosses the wire: the names, types and shapes of the served tensors.

Export, engines, repository, server and client all read this module, so no name is repeated by hand.
"""

import io
import json
from dataclasses import dataclass
from typing import Any

from PIL import Image

from data_pipeline.fields import (
    INT32,
    MOST_CLASSES,
    MOST_LABELS,
    is_whole,
    object_of,
    read_object,
    require,
    require_keys,
    require_names,
)
from data_pipeline.spec import SIXTEEN_BITS, Preprocessing, Thresholds

PIPELINE_MODEL = "resformer"
NETWORK_MODEL = "resformer_network"
PREPROCESSING_MODEL = "resformer_preprocessing"  # of a GPU's repository alone
CONTRACT = "the served model's contract"  # what messages call it
CLASS_PROBS = "CLASS_PROBS"
OUTPUTS = ("MASK", CLASS_PROBS, "SEG_PROBS")  # in the order in which every engine returns them
# Tells workers the id of the supervisor's own requests, which the log leaves out: a secret, or clients would use it.
PROBE_VARIABLE = "RESFORMER_PROBE_ID"
LONGEST_ID = 128  # characters of a request's id that the log keeps
# The header that carries a client's token over gRPC, with the prefix that a tritonserver which checks it by itself
# demands. Over HTTP it is the usual "Authorization: Bearer TOKEN".
GRPC_TOKEN_HEADER = "triton-grpc-protocol-resformer-token"


@dataclass(frozen=True)
class TensorSpec:
    """Describe one tensor.

    name: as clients and engines call it.
    dtype: the server's name of the type (UINT8, FP32).
    shape: lengths without the batch axis, with -1 for any length.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Describe what a served checkpoint takes and returns.

    Raises ValueError where a field breaks its rule.

    preprocessing: size and normalisation of the network's input, the same as in training.
    seg_classes: names of the mask's values, "background" first. Two classes are one sigmoid channel, more a softmax.
    labels: names of the image-level labels. Each has its own sigmoid probability, so several may be present.
    max_batch: largest batch that the engines take.
    thresholds: for the labels' probabilities, or None for weights that never were calibrated.
    """

    preprocessing: Preprocessing
    seg_classes: tuple[str, ...]
    labels: tuple[str, ...]
    max_batch: int = 8
    thresholds: Thresholds | None = None

    def __post_init__(self) -> None:
        require_names(self.seg_classes, "seg_classes", 2, MOST_CLASSES)
        require_names(self.labels, "labels", 1, MOST_LABELS)
        require(is_whole(self.max_batch, 1, INT32), "max_batch", "a whole number above 0", self.max_batch)
        if self.thresholds:
            count, found = len(self.labels), self.thresholds.sensitive
            require(len(found) == count, "thresholds", f"{count} pairs, one for each of labels", found)

    @property
    def image_size(self) -> int:
        """Return the side S of the network's square input in pixels."""
        return self.preprocessing.image_size

    @property
    def seg_channels(self) -> int:
        """Return the number K of mask channels: 1 for two classes (sigmoid), else one for each class (softmax)."""
        return 1 if len(self.seg_classes) == 2 else len(self.seg_classes)

    @property
    def encoded_image(self) -> TensorSpec:
        """Describe IMAGE: the bytes of one JPEG, PNG or TIFF file."""
        # A batch is one array, so shorter files in it are padded with zeros at their end.
        return TensorSpec("IMAGE", "UINT8", (-1,))

    @property
    def network_input(self) -> TensorSpec:
        """Describe INPUT: the normalised RGB image, channels first."""
        return TensorSpec("INPUT", "FP32", (3, self.image_size, self.image_size))

    @property
    def outputs(self) -> tuple[TensorSpec, TensorSpec, TensorSpec]:
        """Describe MASK, CLASS_PROBS and SEG_PROBS, in the order in which every engine returns them.

        MASK holds a class index for each pixel, CLASS_PROBS a probability for each label, and SEG_PROBS the
        probabilities that the mask is decided from.
        """
        side = self.image_size
        mask, class_probs, seg_probs = OUTPUTS
        return (
            TensorSpec(mask, "UINT8", (side, side)),
            TensorSpec(class_probs, "FP32", (len(self.labels),)),
            TensorSpec(seg_probs, "FP32", (self.seg_channels, side, side)),
        )

    def to_fields(self) -> dict[str, Any]:
        """Return the contract as flat fields for JSON, as reports and repositories store it."""
        return {
            "image_size": self.image_size,
            "seg_classes": self.seg_classes,
            "labels": self.labels,
            "mean": self.preprocessing.mean,
            "std": self.preprocessing.std,
            "levels": self.preprocessing.white_level,  # the name in files that already exist
            "max_batch": self.max_batch,
            # Left out where there are none, so that an older client or server reads the rest.
            **({"thresholds": self.thresholds.to_fields()} if self.thresholds else {}),
        }

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> "Contract":
        """Return the contract that `to_fields` described.

        Raises ValueError for a missing, unknown or wrong field.
        """
        flat = object_of(fields, CONTRACT)
        # The first repositories were written without "levels", and those of uncalibrated weights have no thresholds.
        needed = ("image_size", "seg_classes", "labels", "mean", "std", "max_batch")
        require_keys(flat, CONTRACT, needed, optional=("levels", "thresholds"))
        preprocessing = Preprocessing(
            image_size=flat["image_size"],
            mean=flat["mean"],
            std=flat["std"],
            white_level=flat.get("levels", SIXTEEN_BITS),
        )
        return cls(
            preprocessing=preprocessing,
            seg_classes=flat["seg_classes"],
            labels=flat["labels"],
            max_batch=flat["max_batch"],
            thresholds=Thresholds.from_fields(flat["thresholds"]) if "thresholds" in flat else None,
        )

    def to_json(self) -> str:
        """Return the contract as one line of JSON, as the repository's configuration stores it."""
        return json.dumps(self.to_fields())

    @classmethod
    def from_json(cls, text: str) -> "Contract":
        """Return the contract that `to_json` wrote.

        Raises ValueError where the text is not one.
        """
        return cls.from_fields(read_object(text, CONTRACT))


def sample_image() -> bytes:
    """Return a small JPEG file, the same each time."""
    file = io.BytesIO()
    # Without noise the file stays small, and its decoding is as quick as decoding gets.
    Image.linear_gradient("L").convert("RGB").save(file, "JPEG")
    return file.getvalue()
