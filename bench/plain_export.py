"""Export the trained network as it is, for ONNX Runtime and OpenVINO: what a user would do without this project."""

import warnings
from pathlib import Path

import torch

from deploy.contract import Contract
from model import MultiTaskResFormer
from model.network import DecodedNetwork


def plain_export(model: MultiTaskResFormer, contract: Contract, path: Path) -> Path:
    """Write `model` in evaluation mode, neither folded nor rewritten, with only what the exporter does by itself."""
    network = DecodedNetwork(model).eval()
    shape = contract.network_input.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            # Two images, because the exporter takes a length of 1 for a constant.
            (torch.zeros(2, *shape),),
            input_names=[contract.network_input.name],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=contract.max_batch)},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(path)
    return path
