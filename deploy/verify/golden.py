"""Make the golden answers that a repository carries: what PyTorch answers to drawn pictures, and how near is enough."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_pipeline import Preprocessor
from data_pipeline.overlay import png
from deploy.contract import Contract
from deploy.engines import QUANTIZED, Runner
from deploy.network.golden import Golden
from deploy.network.parity import Parity, compare
from deploy.verify import PARITY_TOLERANCE

# Blots of each picture along one side: from large ones, as lesions are, to texture.
BLOTS = (3, 8, 24)


def make_golden(contract: Contract, reference: Runner, served: Runner, precision: str) -> Golden:
    """Return golden answers for an engine that has passed the gate.

    Args:
        contract: what the engine takes and returns.
        reference: the trained network in PyTorch.
        served: the engine.
        precision: the one that it was built in.
    """
    images = draw(contract.image_size)
    preprocess = Preprocessor(contract.preprocessing)
    inputs = np.stack([preprocess(png(Image.fromarray(image))) for image in images])
    unlimited = Golden(images=images, answers=reference(inputs), limits=Parity(1.0, 1.0, 1.0))
    # As they are read back, rounded.
    answers = Golden.from_bytes(unlimited.to_bytes()).answers
    measured = compare(answers, served(inputs))
    # The gate holds quantised engines to the task alone, and its limits in numbers would let anything pass.
    tolerance = PARITY_TOLERANCE["bf16" if precision in QUANTIZED else precision]
    # The pictures are none that the gate has seen, so what the verified engine itself differs on them is added.
    limits = {name: value + getattr(tolerance, name) for name, value in vars(measured).items()}
    return Golden(images=images, answers=answers, limits=Parity(**limits))


def draw(side: int) -> NDArray[np.uint8]:
    """Draw smooth coloured pictures (N, side, side, 3), the same each time.

    No image of the data: a repository travels to machines where those of patients must not be.
    """
    generator = np.random.default_rng(0)
    coarse = [Image.fromarray(generator.integers(0, 256, (blots, blots, 3), np.uint8)) for blots in BLOTS]
    return np.stack([np.asarray(one.resize((side, side), Image.Resampling.BICUBIC)) for one in coarse])
