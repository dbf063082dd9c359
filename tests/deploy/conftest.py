"""Share one real build, and one real server over a small but real network, among all tests of `deploy`."""

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_pipeline import Preprocessing, Preprocessor
from data_pipeline.spec import Thresholds
from deploy import build_engine
from deploy.contract import Contract
from deploy.export import export_onnx
from deploy.network.golden import Golden
from deploy.repository import write_repository
from deploy.server import Server
from deploy.server.options import FREE_PORTS
from deploy.traced_graph import GraphCache
from model import MultiTaskResFormer
from model.calibration import Calibration
from model.checkpoint import Checkpoint, CheckpointInfo, save_checkpoint
from tests.helpers.golden import golden_of
from tests.helpers.networks import SMALLEST, lived_in
from tests.helpers.smallest import CONTRACT

Infer = Callable[[bytes], dict[str, NDArray[np.generic]]]
MakeImage = Callable[..., bytes]


@dataclass(frozen=True)
class Built:
    """Describe one build.

    checkpoint: its file.
    output: the folder that the build filled.
    root: the directory that it ran in.
    """

    checkpoint: Path
    output: Path
    root: Path

    def again(self, *arguments: str) -> int:
        """Run the command once more on the same checkpoint and output, and return its exit code."""
        with working_directory(self.root):
            # Five validation images: this network is untrained, so its scores mean nothing.
            return build_engine.main(
                ["--checkpoint", str(self.checkpoint), "--output", str(self.output), "--samples", "5", *arguments]
            )


@contextmanager
def working_directory(path: Path) -> Iterator[None]:
    """Run the block in another directory."""
    # contextlib.chdir is new in Python 3.11, and monkeypatch lives no longer than one test.
    before = Path.cwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the smallest network as a float32 ONNX file with a dynamic batch."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_onnx(lived_in(SMALLEST), CONTRACT, path)
    return path


@pytest.fixture(scope="session", autouse=True)
def one_export_of_each_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the builds of this process export a network once, and copy the file afterwards: an export takes seconds."""
    folder = tmp_path_factory.mktemp("exports")

    def export_or_copy(model: MultiTaskResFormer, contract: Contract, path: Path, cache: GraphCache) -> None:
        state = hashlib.sha256(f"{model.config} {contract.to_json()}".encode())
        for name, tensor in model.state_dict().items():
            state.update(name.encode() + tensor.numpy().tobytes())
        kept = folder / state.hexdigest()
        if not kept.exists():
            export_onnx(model, contract, kept)
        shutil.copyfile(kept, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deploy.building.builder.export_onnx", export_or_copy)
        yield


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a skin checkpoint of the smallest network, with untrained weights."""
    # One channel: skin has a binary mask, and SMALLEST several classes.
    config = replace(SMALLEST, seg_channels=1)
    labels = ("melanoma", "seborrheic_keratosis", "nevus")
    info = CheckpointInfo(
        config=config,
        seg_classes=("background", "lesion"),
        labels=labels,
        data="synthetic:skin",
        preprocessing=Preprocessing(image_size=config.image_size),
        calibration=Calibration(
            temperatures=(0.25, 3.0, 0.2),
            thresholds=Thresholds(sensitive=(0.1, 0.2, 0.5), specific=(0.7, 0.9, 0.5), rate=0.95),
            images=200,
        ),
    )
    path = tmp_path_factory.mktemp("checkpoint") / "smallest.safetensors"
    save_checkpoint(path, Checkpoint(info, lived_in(config).state_dict()))
    return path


@pytest.fixture(scope="session")
def built(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build every engine of the small checkpoint that this machine can build."""
    # A directory of its own: the build caches what it generates in build/data below the current one.
    root = tmp_path_factory.mktemp("build")
    result = Built(small_checkpoint, root / "out", root)
    assert result.again("--max-batch", "4") == 0
    return result


@pytest.fixture(scope="session")
def contract() -> Contract:
    """Describe four segmentation classes, two labels, and a side that no power of two divides."""
    return Contract(
        # Three different values each, so that swapped channels or statistics change the answer.
        preprocessing=Preprocessing(image_size=51, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
        seg_classes=("background", "IRF", "SRF", "PED"),
        labels=("fluid", "scar"),
        max_batch=4,
        thresholds=Thresholds(sensitive=(0.25, 0.4), specific=(0.5, 0.6), rate=0.95),
    )


@pytest.fixture(scope="session")
def network(contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a convolution, a softmax and a linear head under the contract's names, with weights from a seed."""
    path = tmp_path_factory.mktemp("network") / "model.onnx"
    onnx.save(small_network(contract), path)
    return path


def small_network(contract: Contract, seed: int = 5) -> onnx.ModelProto:
    """Make a network from INPUT (batch, 3, S, S) to MASK, CLASS_PROBS and SEG_PROBS, in opset 17."""
    # Small enough that a request costs almost nothing next to serving, and real enough that its masks differ by image.
    generator = np.random.default_rng(seed)
    channels, side = contract.seg_channels, contract.image_size
    weights = {
        "kernel": generator.normal(size=(channels, 3, 3, 3)).astype(np.float32),
        "head": generator.normal(size=(channels, len(contract.labels))).astype(np.float32),
    }
    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["INPUT", "kernel"], ["logits"], pads=[1, 1, 1, 1]),
        node("Softmax", ["logits"], ["SEG_PROBS"], axis=1),
        node("ArgMax", ["SEG_PROBS"], ["indices"], axis=1, keepdims=0),
        node("Cast", ["indices"], ["MASK"], to=onnx.TensorProto.UINT8),
        node("GlobalAveragePool", ["logits"], ["pooled"]),
        node("Flatten", ["pooled"], ["features"]),
        node("MatMul", ["features", "head"], ["class_logits"]),
        node("Sigmoid", ["class_logits"], ["CLASS_PROBS"]),
    ]
    floating, value = onnx.TensorProto.FLOAT, onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "small",
        [value("INPUT", floating, ["batch", 3, side, side])],
        [
            value("MASK", onnx.TensorProto.UINT8, ["batch", side, side]),
            value("CLASS_PROBS", floating, ["batch", len(contract.labels)]),
            value("SEG_PROBS", floating, ["batch", channels, side, side]),
        ],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    # The versions are fixed: newer ones than the runtimes read would be written by default.
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture(scope="session")
def golden(contract: Contract, network: Path) -> Golden:
    """Return the answers of the small network in ONNX Runtime, which its server is held to."""
    return golden_of(network, contract)


@pytest.fixture(scope="session")
def repository(contract: Contract, network: Path, golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the model repository of the small network."""
    return write_repository(tmp_path_factory.mktemp("build"), contract, network, golden)


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Server]:
    """Run one server for all tests that do not break it."""
    with Server(repository, FREE_PORTS) as running:
        yield running


@pytest.fixture(scope="session")
def in_process(contract: Contract, network: Path) -> Infer:
    """Return the reference: the same network in another engine (ONNX Runtime), without a server around it."""
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    preprocess = Preprocessor(contract.preprocessing)
    names = [spec.name for spec in contract.outputs]

    def infer(data: bytes) -> dict[str, NDArray[np.generic]]:
        outputs = session.run(names, {contract.network_input.name: preprocess(data)[None]})
        return {name: output[0] for name, output in zip(names, outputs, strict=True)}

    return infer


@pytest.fixture(scope="session")
def make_image() -> MakeImage:
    """Return a function that makes a smooth colourful picture as the bytes of an image file."""

    def make(size: tuple[int, int] = (97, 64), kind: str = "PNG", seed: int = 0, **options: object) -> bytes:
        """Make a file of `kind` with a picture of `size` (width, height)."""
        coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, kind, **options)
        return file.getvalue()

    return make
