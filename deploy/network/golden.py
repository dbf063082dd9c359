"""Hold golden answers: a few images with what PyTorch answered, which every load of a served network must give too.

A file that is right to the byte can still be computed wrongly, by another processor or another version of a runtime.
"""

import io
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_pipeline.overlay import png
from data_pipeline.spec import Preprocessing
from deploy.network.parity import EngineOutput, Parity, compare

# Probabilities are kept as whole numbers of 16 bits, 0.000008 from the exact ones at most.
_LEVELS = 2**16 - 1


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Hold images of the network's own size, and PyTorch's answers to them.

    images: (N, S, S, 3) uint8 RGB.
    answers: PyTorch's, for these N images.
    limits: how far the answers of a served network may be from them.
    """

    images: NDArray[np.uint8]
    answers: EngineOutput
    limits: Parity

    def encoded(self) -> list[bytes]:
        """Return the images as PNG files."""
        return [png(Image.fromarray(image)) for image in self.images]

    def normalised(self, spec: Preprocessing) -> NDArray[np.float32]:
        """Return the images as the network takes them, (N, 3, S, S)."""
        scaled = (self.images / 255 - np.array(spec.mean)) / np.array(spec.std)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), dtype=np.float32)

    def faults(self, answers: EngineOutput) -> list[str]:
        """List what is further from PyTorch's answers than its limit, with the figures."""
        return compare(self.answers, answers).above(self.limits)

    def to_bytes(self) -> bytes:
        """Return the content of the file that `from_bytes` reads, the same each time."""
        file = io.BytesIO()
        whole = {
            name: np.rint(values * _LEVELS).astype(np.uint16)
            for name, values in (("class_probs", self.answers.class_probs), ("seg_probs", self.answers.seg_probs))
        }
        limits: Any = {f"limit_{name}": value for name, value in asdict(self.limits).items()}
        np.savez_compressed(file, images=self.images, mask=self.answers.mask, **whole, **limits)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Golden":
        """Read the content of a file."""
        with np.load(io.BytesIO(content)) as file:
            whole = (file[name].astype(np.float32) / _LEVELS for name in ("class_probs", "seg_probs"))
            limits = {field.name: float(file[f"limit_{field.name}"]) for field in fields(Parity)}
            answers = EngineOutput(file["mask"], *whole)
            return cls(images=file["images"], answers=answers, limits=Parity(**limits))
