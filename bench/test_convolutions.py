"""Compare OpenVINO's own 3x3 convolutions with our operator in Winograd's form, one layer at a time.

python -m pytest bench/test_convolutions.py -m slow --benchmark-only --threads 1
"""

from functools import partial

import numpy as np
import pytest
from pytest import FixtureRequest

from bench.turns import Turn
from deploy.engines.openvino_winograd import compiled_form
from deploy.network import winograd
from deploy.network.winograd import Shape
from deploy.verify.turns import Operation, timed

# The dense ones of paper-224, and two of its dilated ones.
SHAPES = (
    Shape(64, 64, 112, 1),
    Shape(64, 128, 112, 1),
    Shape(128, 128, 56, 1),
    Shape(128, 256, 56, 1),
    Shape(256, 256, 28, 1),
    Shape(256, 512, 28, 1),
    Shape(512, 512, 14, 1),
    Shape(64, 64, 112, 6),
    Shape(128, 128, 56, 6),
)
FORMS = {"openvino": False, "winograd": True}


@pytest.mark.slow
@pytest.mark.skipif(bool(winograd.reason_against()), reason=winograd.reason_against())
@pytest.mark.parametrize("contender", FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "{1}to{0}-{2}px-d{3}".format(*shape))
def test_convolutions(turn: Turn, request: FixtureRequest, shape: Shape, contender: str) -> None:
    threads = request.config.getoption("--threads")
    image = np.random.default_rng(0).standard_normal((1, shape.c_in, shape.side, shape.side), np.float32)

    def opened(form: str) -> Operation:
        request = compiled_form(shape, threads, marked=FORMS[form])
        return timed(partial(request.infer, [image]))

    title = "{1} to {0} channels at {2} px, dilation {3}".format(*shape)
    turn.measure(f"3x3 convolution, {title}", {form: partial(opened, form) for form in FORMS})
    turn.benchmark.extra_info.update(**shape._asdict(), threads=threads)
