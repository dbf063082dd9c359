"""Test the numeric tolerances that engines are verified with."""

from typing import cast

import numpy as np
import torch
from torch import nn

from deploy.engines import PRECISIONS, pytorch_runner
from deploy.verify import PARITY_TOLERANCE, broken_tolerances, compare
from model import MultiTaskResFormer, Prediction
from tests.helpers.networks import SMALLEST, lived_in
from tests.helpers.smallest import images


# A missing one would be found only on the machine that runs such an engine, and tf32 runs on a GPU alone.
def test_every_precision_has_a_tolerance() -> None:
    assert PARITY_TOLERANCE.keys() == set(PRECISIONS)


def test_the_reference_is_not_rounded_to_tf32() -> None:
    """Look at the setting from inside the network: cuDNN rounds by default, and only a GPU would show it."""
    seen = []

    class Seeing(nn.Module):
        def forward(self, image: torch.Tensor) -> Prediction:
            seen.append(torch.backends.cudnn.allow_tf32)
            return Prediction(image[:, :1], image[:, :, 0, 0])

    before = torch.backends.cudnn.allow_tf32
    pytorch_runner(cast(MultiTaskResFormer, Seeing()))(images(1))
    assert seen == [False] and torch.backends.cudnn.allow_tf32 is before


def test_parity_tolerances_notice_what_matters() -> None:
    reference = pytorch_runner(lived_in(SMALLEST))(images(2))
    same = compare(reference, reference)
    assert not broken_tolerances("fp32", same)
    flipped = reference.mask.copy()
    flipped[0, :4] = 3 - flipped[0, :4]  # 4 of 128 rows: 3 % of the pixels
    (reason,) = broken_tolerances("bf16", compare(reference, reference._replace(mask=flipped)))
    assert reason == "mask differs by 3.12e-02, more than 2e-02"
    lost = reference._replace(class_probs=np.full_like(reference.class_probs, np.nan))
    (reason,) = broken_tolerances("bf16", compare(reference, lost))
    assert reason.startswith("classification differs by inf")
