"""Compare the folded network with the trained one, and look for anything that could still be folded."""

from pathlib import Path

import torch
from torch import nn

from model import MultiTaskResFormer
from model.inference import fold_branch, for_inference
from model.inference.kernel_modules import FusedDFE
from model.network import DecodedNetwork
from model.network.decoder import DFE, DilatedBranch
from model.network.layers import ConvNorm


def test_the_folded_network_equals_the_trained_one(network: MultiTaskResFormer) -> None:
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    network = network.double()  # in fp64, so that a wrong fold cannot hide behind rounding
    with torch.no_grad():
        for expected, folded in zip(network(image), for_inference(network)(image), strict=True):
            torch.testing.assert_close(folded, expected, rtol=1e-9, atol=1e-9)


def test_nothing_foldable_is_left_and_the_original_stays(network: MultiTaskResFormer) -> None:
    folded = for_inference(network)
    assert not [m for m in folded.modules() if isinstance(m, DFE | ConvNorm)]
    assert sum(isinstance(m, FusedDFE) for m in folded.modules()) == 4
    assert sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules()) == len(network.config.head_levels)
    assert any(isinstance(m, DFE) for m in network.modules())


def test_the_folded_network_goes_through_a_file(network: MultiTaskResFormer, tmp_path: Path) -> None:
    folded, image = for_inference(network), torch.randn(1, 3, 64, 64)
    torch.save(folded, tmp_path / "folded.pt")
    again = torch.load(tmp_path / "folded.pt", weights_only=False)
    with torch.no_grad():
        for one, two in zip(again(image), folded(image), strict=True):
            assert torch.equal(one, two)


def test_the_folded_network_is_laid_out_for_a_gpu_as_any_other(network: MultiTaskResFormer) -> None:
    folded, image = for_inference(network.double()), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = folded(image)
        folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        other = folded(image.contiguous(memory_format=torch.channels_last))
    for one, two in zip(other, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


def test_a_branch_folds_into_one_dilated_convolution(network: MultiTaskResFormer) -> None:
    dfe = network.dfe[1]
    assert isinstance(dfe, DFE)
    branch = dfe.branches[2]
    assert isinstance(branch, DilatedBranch)
    weight, bias = fold_branch(branch)
    x = torch.randn(2, 16, 9, 13)  # smaller than the reach of dilation 5: zero padding matters
    folded = nn.functional.conv2d(x, weight, bias, padding=5, dilation=5)
    torch.testing.assert_close(folded, branch(x), rtol=1e-4, atol=1e-5)


def test_decoding_follows_the_number_of_mask_channels(network: MultiTaskResFormer) -> None:
    image = torch.randn(2, 3, 64, 64)
    segmentation, classification = network(image)
    several = DecodedNetwork(network)(image)
    assert torch.equal(several.mask, segmentation.argmax(dim=1).to(torch.uint8))
    torch.testing.assert_close(several.seg_probs.sum(dim=1), torch.ones(2, 64, 64))
    torch.testing.assert_close(several.class_probs, torch.sigmoid(classification))
    network.decoder.classify = nn.Conv2d(8, 1, 1, bias=False)
    single = DecodedNetwork(network)(image)
    assert single.mask.dtype == torch.uint8
    assert torch.equal(single.mask.bool(), single.seg_probs[:, 0] > 0.5)
