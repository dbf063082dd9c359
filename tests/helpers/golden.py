"""Make golden answers for a network's file without a build."""

from pathlib import Path

from deploy.contract import Contract
from deploy.engines import cpu_runner
from deploy.network.golden import Golden
from deploy.verify.golden import make_golden


def golden_of(network: Path, contract: Contract) -> Golden:
    """Return what an ONNX file answers node by node, for its execution in OpenVINO to be compared with."""
    reference, served = (cpu_runner(network, execution, 1) for execution in ("onnxruntime literal", "openvino f32"))
    return make_golden(contract, reference, served, "fp32")
