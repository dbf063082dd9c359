"""Provide PyTorch DataLoaders over OpenCV and PIL that do the work of our training pipeline, to measure it against.

They take the same files and the same random parameters: decode, shrink with antialiasing, warp image and mask by one
matrix, change the colours, normalise.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from data_pipeline import Dataset, Preprocessing
from data_pipeline.graph.augmentation import COLOUR, draw_parameters

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class PeerSamples(torch.utils.data.Dataset[tuple[NDArray[np.float32], NDArray[np.int64]]]):
    """Make augmented samples by `kind`: "opencv", "opencv-reduced" (JPEGs decoded at half size) or "pil"."""

    def __init__(self, dataset: Dataset, spec: Preprocessing, kind: str) -> None:
        self.dataset, self.spec, self.warped = dataset, spec, {"pil": pil_warped}.get(kind, opencv_warped)
        self.reduced = kind == "opencv-reduced"

    def __len__(self) -> int:
        return len(self.dataset.records)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        record, size = self.dataset.records[index], self.spec.image_size
        drawn = draw_parameters(COLOUR, size, (0, 0, index, 0))
        matrix, colour = (drawn[name].astype(np.float32) for name in ("matrix", "colour"))
        image, mask = self.warped(str(record.image), str(record.mask), matrix[:2], size, self.reduced)
        # Contrast turns around mid-grey, hence the constant.
        twisted = image @ colour_matrix(colour).T + np.float32(0.5 * (1 - colour[1]))
        normalised = (twisted - np.array(self.spec.mean, np.float32)) / np.array(self.spec.std, np.float32)
        return np.ascontiguousarray(normalised.transpose(2, 0, 1)), mask.astype(np.int64)


def colour_matrix(colour: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (3, 3) for brightness, contrast and saturation."""
    # Hue is left out: it is a rotation in the same matrix and would cost no more.
    brightness, contrast, saturation = colour[:3]
    mixed = saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * np.tile(LUMA, (3, 1))
    return np.asarray(brightness * contrast * mixed, np.float32)


def opencv_warped(image: str, mask: str, matrix: NDArray[np.float32], size: int, reduced: bool) -> Any:
    """Decode and warp with OpenCV to an image (S, S, 3) float32 in 0 to 1 and a mask (S, S) uint8."""
    # Here and not above, so that the memory of the other loaders does not include OpenCV.
    import cv2

    # The workers are the parallelism. OpenCV's own threads in each of them would give it more than the others have.
    cv2.setNumThreads(1)
    flags = cv2.IMREAD_REDUCED_COLOR_2 if reduced else cv2.IMREAD_COLOR
    pixels = cv2.cvtColor(cv2.imread(image, flags), cv2.COLOR_BGR2RGB)
    # Area averaging is OpenCV's antialiased resize: its linear one aliases when it shrinks.
    square = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    indices = cv2.imread(mask, cv2.IMREAD_GRAYSCALE)
    # The matrix speaks of the square image. The mask keeps its size until the warp, so that it is resampled once.
    to_mask = np.diag([indices.shape[1] / size, indices.shape[0] / size]) @ matrix
    inverse = cv2.WARP_INVERSE_MAP
    return (
        cv2.warpAffine(square, matrix, (size, size), flags=cv2.INTER_LINEAR | inverse),
        cv2.warpAffine(indices, to_mask, (size, size), flags=cv2.INTER_NEAREST | inverse),
    )


def pil_warped(image: str, mask: str, matrix: NDArray[np.float32], size: int, _reduced: bool) -> Any:
    """Decode and warp with Pillow to an image (S, S, 3) float32 in 0 to 1 and a mask (S, S) uint8."""
    # Pillow's bilinear resize widens its filter when it shrinks, so it is antialiased.
    square = Image.open(image).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    indices = Image.open(mask)
    to_mask = np.diag([indices.width / size, indices.height / size]) @ matrix
    affine, linear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    # `transform` maps from output to input by itself, as the inverse map of OpenCV.
    warped = square.transform((size, size), affine, matrix.flatten().tolist(), linear)
    moved = indices.transform((size, size), affine, to_mask.flatten().tolist(), Image.Resampling.NEAREST)
    return np.asarray(warped, np.float32) / 255, np.asarray(moved)
