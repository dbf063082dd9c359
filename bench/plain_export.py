"""What a user would pick instead: the trained network exported as it is, for ONNX Runtime and OpenVINO."""

import warnings
from pathlib import Path

import torch

from deploy.contract import Contract
from model import MultiTaskResFormer
from model.network.outputs import DecodedNetwork


def plain_export(model: MultiTaskResFormer, contract: Contract, path: Path) -> Path:
    """`model` in evaluation mode, neither folded nor rewritten: only what the exporter does by itself."""
    network = DecodedNetwork(model).eval()
    shape = contract.network_input.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (torch.zeros(2, *shape),),
            input_names=[contract.network_input.name],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=contract.max_batch)},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(path)
    return path
