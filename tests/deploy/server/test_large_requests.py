"""Send the largest requests that are taken, and larger ones, which must not cost a healthy worker."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import tritonclient.grpc as grpc
from PIL import Image
from tritonclient.utils import InferenceServerException

from data_pipeline.image_header import MAX_PIXELS
from deploy.contract import PIPELINE_MODEL
from deploy.server import Server


def refusal(server: Server, images: list[bytes]) -> str:
    """Send images as one batch and return why they are refused."""
    longest = max(map(len, images))
    rows = np.stack([np.frombuffer(image.ljust(longest, b"\0"), np.uint8) for image in images])
    tensor = grpc.InferInput("IMAGE", list(rows.shape), "UINT8")
    tensor.set_data_from_numpy(rows)
    with grpc.InferenceServerClient(server.grpc_url) as client, pytest.raises(InferenceServerException) as error:
        client.infer(PIPELINE_MODEL, [tensor])
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"
    return str(error.value.message())


def test_the_limit_on_pixels_is_one_request_s(server: Server) -> None:
    """Hold a batch to what one image may have: each second of decoding is one that others wait."""
    file = io.BytesIO()
    Image.new("1", (10_000, MAX_PIXELS // 20_000 + 1)).save(file, "PNG")
    said = refusal(server, [file.getvalue()] * 2)
    assert f"pixels together, more than the limit of {MAX_PIXELS:,}" in said


@pytest.mark.parametrize("bad", [b"no image", b"\xff\xd8\xff\xe0"], ids=["another format", "damaged"])
def test_the_bad_image_of_a_batch_is_named(server: Server, make_image: Callable[..., bytes], bad: bytes) -> None:
    assert refusal(server, [make_image(), make_image(), bad]).startswith("number 2 of the batch: ")


def test_a_cut_image_of_a_batch_is_named(server: Server, make_image: Callable[..., bytes]) -> None:
    """Hold the zeros that fill up its row not to pass for the rest of it."""
    cut = make_image(kind="JPEG")
    cut = cut[: len(cut) // 2]
    assert refusal(server, [make_image(), cut]).startswith("number 1 of the batch: ")
