"""Make files that decode like photographs, for the benchmarks of loaders and decoders."""

from pathlib import Path

import numpy as np
from PIL import Image

from bench import OUTPUT
from data_pipeline.sources.synthetic import skin

SIZES = {"1024x768": (768, 1024, 24), "3000x2000": (2000, 3000, 8)}  # height, width, files


def photograph_folder(name: str) -> Path:
    """Make JPEG files and PNG masks of this size, once, and return their folder."""
    height, width, count = SIZES[name]
    folder = OUTPUT / name
    # The last file made stands for all of them.
    if not (folder / f"{count - 1}.png").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            rng = np.random.default_rng((index, height))
            image, mask, _ = skin.generate(rng)
            large = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC), np.int16)
            # Smooth images have few coefficients. Noise makes them as hard to decode as photographs.
            noisy = np.clip(large + rng.integers(-6, 7, large.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"{index}.jpg", quality=90)
            Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST).save(folder / f"{index}.png")
    return folder
