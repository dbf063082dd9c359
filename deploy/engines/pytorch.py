"""Run the network as it was trained, in PyTorch: the reference that every engine is compared with."""

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.engines.base import EngineOutput, Runner
from model import MultiTaskResFormer
from model.network.outputs import DecodedNetwork


def pytorch_runner(model: MultiTaskResFormer) -> Runner:
    """Run `model` in fp32, neither folded nor exported, on PyTorch's own number of threads."""
    network = DecodedNetwork(model).eval()

    def run(images: NDArray[np.float32]) -> EngineOutput:
        with torch.inference_mode():
            return EngineOutput(*(output.numpy() for output in network(torch.from_numpy(images))))

    return run
