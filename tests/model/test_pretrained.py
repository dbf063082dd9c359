"""Take first weights from an ImageNet ResNet: the right tensor in the right place, and nothing unpickled."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from model import MultiTaskResFormer, build_model
from model.checkpoint import CheckpointError
from model.network.encoder import ResFormerStage
from model.training.pretrained import load_pretrained
from tests.helpers.networks import SMALLEST, lived_in

Tensors = dict[str, Tensor]


def norm_weights(name: str, channels: int) -> Tensors:
    """Draw the tensors of a batch norm."""
    tensors = {f"{name}.{part}": torch.rand(channels) + 0.5 for part in ("weight", "bias", "running_mean")}
    return {**tensors, f"{name}.running_var": torch.rand(channels) + 0.5}


def torchvision_resnet() -> Tensors:
    """Draw tensors named and shaped as in torchvision's `resnet34().state_dict()`, at the size of SMALLEST."""
    channels = SMALLEST.channels
    tensors = {"conv1.weight": torch.randn(channels[0], 3, 7, 7), **norm_weights("bn1", channels[0])}
    for stage, blocks in enumerate(SMALLEST.resnet_blocks):
        out = channels[stage]
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            c_in = out if block else channels[max(stage - 1, 0)]
            tensors |= {f"{name}.conv1.weight": torch.randn(out, c_in, 3, 3), **norm_weights(f"{name}.bn1", out)}
            tensors |= {f"{name}.conv2.weight": torch.randn(out, out, 3, 3), **norm_weights(f"{name}.bn2", out)}
            if c_in != out:
                tensors[f"{name}.downsample.0.weight"] = torch.randn(out, c_in, 1, 1)
                tensors |= norm_weights(f"{name}.downsample.1", out)
    return {**tensors, "fc.weight": torch.randn(1000, channels[-1]), "fc.bias": torch.randn(1000)}


def batch_norm(x: Tensor, tensors: Tensors, name: str) -> Tensor:
    """Apply a batch norm of torchvision's names in evaluation."""
    mean, var, weight, bias = (tensors[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, weight, bias)


def resnet_stage(x: Tensor, tensors: Tensors, stage: int, blocks: int) -> Tensor:
    """Apply a stage of torchvision's ResNet, written out: torchvision does not import beside a CPU build."""
    for block in range(blocks):
        name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
        y = F.relu(batch_norm(F.conv2d(x, tensors[f"{name}.conv1.weight"], None, stride, 1), tensors, f"{name}.bn1"))
        y = batch_norm(F.conv2d(y, tensors[f"{name}.conv2.weight"], None, 1, 1), tensors, f"{name}.bn2")
        if stride == 2:
            down = F.conv2d(x, tensors[f"{name}.downsample.0.weight"], None, stride)
            x = batch_norm(down, tensors, f"{name}.downsample.1")
        x = F.relu(x + y)
    return x


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_convolutional_path_computes_what_the_given_resnet_does(suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    tensors, path = torchvision_resnet(), tmp_path / f"resnet{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    network = build_model(SMALLEST).eval()
    report = load_pretrained(network, str(path))
    assert f"took {len(tensors) - 2} of its {len(tensors)} tensors" in report
    assert "2 have no place here, 0 another shape" in report
    x = torch.randn(1, 3, 64, 64)
    stem = F.relu(batch_norm(F.conv2d(x, tensors["conv1.weight"], None, 1, 3), tensors, "bn1"))
    torch.testing.assert_close(network.encoder.stem[1](network.encoder.stem[0](x)), stem)
    for stage, blocks in enumerate(SMALLEST.resnet_blocks, 1):
        x = torch.randn(1, SMALLEST.channels[max(stage - 2, 0)], 16, 16)
        ours = network.encoder.stages[stage - 1]
        assert isinstance(ours, ResFormerStage)
        torch.testing.assert_close(ours.res(x), resnet_stage(x, tensors, stage, blocks))


@pytest.mark.parametrize("wrapped", ["state_dict", "model", ""])
def test_weights_are_found_where_trainers_keep_them(wrapped: str, tmp_path: Path) -> None:
    given = lived_in(SMALLEST).state_dict()
    odd = {7: torch.ones(1), "sparse": torch.eye(3).to_sparse(), "complex": torch.ones(2, dtype=torch.complex64)}
    inner = {f"module.{name}": tensor for name, tensor in given.items()} | odd
    torch.save({wrapped: inner, "epoch": 3} if wrapped else inner, tmp_path / "some.pth")
    network = build_model(SMALLEST)
    assert f"took {len(given)} of its {len(given)} tensors" in load_pretrained(network, str(tmp_path / "some.pth"))
    assert all(torch.equal(tensor, given[name]) for name, tensor in network.state_dict().items())


@pytest.fixture
def untouched() -> MultiTaskResFormer:
    return build_model(SMALLEST)


def test_what_does_not_fit_is_refused(untouched: MultiTaskResFormer, tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(5, 3, 7, 7)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"no tensor of .* has a name and shape of this network"):
        load_pretrained(untouched, str(tmp_path / "other.safetensors"))
    (tmp_path / "absent-code.pth").write_bytes(pickle.dumps(Path("/"), protocol=2))
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("hello")
    for name in ("absent.pth", "absent-code.pth", "empty.pth", "text.pth", "absent.safetensors"):
        with pytest.raises(
            CheckpointError, match=r"cannot be read as weights \(\w+: .*\); give a state_dict"
        ) as caught:
            load_pretrained(untouched, str(tmp_path / name))
        assert "\n" not in str(caught.value)
    own = next(name for name, tensor in untouched.state_dict().items() if tensor.ndim == 4)
    torch.save({own: untouched.state_dict()[own] * float("nan")}, tmp_path / "nan.pth")
    with pytest.raises(CheckpointError, match=f"holds NaN or infinite weights in 1 tensors, first in {own}"):
        load_pretrained(untouched, str(tmp_path / "nan.pth"))
    weight = untouched.state_dict()[own]
    for other in (weight.to(torch.int8), weight.to(torch.float8_e4m3fn), weight.to("meta")):
        torch.save({own: other}, tmp_path / "other.pth")
        with pytest.raises(CheckpointError, match=f"weights in 1 tensors, first in {own}; save them as float32"):
            load_pretrained(untouched, str(tmp_path / "other.pth"))
    whole = {name: tensor.float() for name, tensor in untouched.state_dict().items()}
    torch.save(whole, tmp_path / "floats.pth")
    assert f"took {len(whole)} of its {len(whole)} tensors" in load_pretrained(untouched, str(tmp_path / "floats.pth"))
    torch.save({own: torch.full_like(weight, 1e300, dtype=torch.float64)}, tmp_path / "large.pth")
    with pytest.raises(CheckpointError, match=f"holds NaN or infinite weights in 1 tensors, first in {own}"):
        load_pretrained(untouched, str(tmp_path / "large.pth"))
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list; give a state_dict"):
        load_pretrained(untouched, str(tmp_path / "list.pth"))
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load_pretrained(untouched, "http://127.0.0.1:9/resnet34.pth")
