"""Compare the real server's answers with those of the same network in another engine without a server."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from numpy.typing import NDArray

from deploy.client import Client, InvalidImage, ServerUnavailable
from deploy.contract import NETWORK_MODEL, PIPELINE_MODEL, Contract
from deploy.server import Server

# Two engines add up a 27-term convolution in different orders.
ROUNDING = 2e-6
KINDS = [("JPEG", {"quality": 90}), ("PNG", {}), ("TIFF", {})]


@pytest.fixture(params=["grpc", "http"])
def client(request: pytest.FixtureRequest, server: Server) -> Any:
    url = server.grpc_url if request.param == "grpc" else server.http_url
    with Client(url, request.param) as connected:
        yield connected


def assert_same_mask(mask: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> None:
    """Check that the mask is the argmax wherever the two best classes are further apart than rounding."""
    best = np.sort(probabilities, axis=0)
    clear = best[-1] - best[-2] > ROUNDING
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(mask[clear], probabilities.argmax(axis=0)[clear])


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=[kind for kind, _ in KINDS])
def test_answer_is_that_of_the_network_in_process(
    client: Client, make_image: Callable[..., bytes], in_process: Any, kind: str, options: dict[str, int]
) -> None:
    data = make_image((131, 77), kind, **options)
    expected = in_process(data)
    result = client.segment(data, probabilities=True)
    assert result.mask.dtype == np.uint8
    assert len(np.unique(result.mask)) > 1, "a constant mask would prove nothing"
    assert_same_mask(result.mask, expected["SEG_PROBS"])
    assert result.seg_probabilities is not None
    np.testing.assert_allclose(result.seg_probabilities, expected["SEG_PROBS"], atol=ROUNDING)
    np.testing.assert_allclose(list(result.class_probabilities.values()), expected["CLASS_PROBS"], atol=ROUNDING)


def test_contract_comes_from_the_server(client: Client, contract: Contract) -> None:
    assert client.contract == contract


def test_probabilities_are_sent_only_when_asked_for(client: Client, make_image: Callable[..., bytes]) -> None:
    assert client.segment(make_image()).seg_probabilities is None


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: b"", "empty"),
        (lambda data: b"GIF89a" + bytes(40), "not an image"),
        (lambda data: data[: len(data) // 2], "damaged"),
        (lambda data: data[:30], "damaged|not an image"),
    ],
    ids=["empty", "another format", "half", "header only"],
)
def test_bad_image_is_refused_with_one_line_and_the_next_is_answered(
    client: Client, make_image: Callable[..., bytes], damage: Callable[[bytes], bytes], says: str
) -> None:
    good = make_image((120, 90), "JPEG")
    with pytest.raises(InvalidImage, match=says) as refusal:
        client.segment(damage(good))
    message = str(refusal.value)
    assert "\n" not in message
    assert "Traceback" not in message
    assert "/" not in message.replace("and/or", ""), "no path may reach a client"
    assert client.segment(good).mask.any()


def test_batch_of_unequal_files_padded_with_zeros(
    server: Server, make_image: Callable[..., bytes], in_process: Any
) -> None:
    files = [make_image((60 + 20 * row, 50), kind, seed=row) for row, kind in enumerate(("JPEG", "PNG", "TIFF"))]
    # A decoder stops at the end of its file, so zeros behind it change nothing.
    padded = np.zeros((len(files), max(map(len, files))), np.uint8)
    for row, data in zip(padded, files, strict=True):
        row[: len(data)] = np.frombuffer(data, np.uint8)
    response = infer(server, PIPELINE_MODEL, "IMAGE", padded, "UINT8", ["MASK", "CLASS_PROBS"])
    for row, data in enumerate(files):
        expected = in_process(data)
        assert_same_mask(response.as_numpy("MASK")[row], expected["SEG_PROBS"])
        np.testing.assert_allclose(response.as_numpy("CLASS_PROBS")[row], expected["CLASS_PROBS"], atol=ROUNDING)


def test_network_model_takes_normalised_images(server: Server, contract: Contract, network: Any) -> None:
    import onnxruntime

    images = np.random.default_rng(3).normal(size=(2, *contract.network_input.shape)).astype(np.float32)
    response = infer(server, NETWORK_MODEL, "INPUT", images, "FP32", ["SEG_PROBS"])
    (expected,) = onnxruntime.InferenceSession(network).run(["SEG_PROBS"], {"INPUT": images})
    np.testing.assert_allclose(response.as_numpy("SEG_PROBS"), expected, atol=ROUNDING)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite_are_refused_and_the_next_is_answered(
    value: float, server: Server, contract: Contract
) -> None:
    images = np.zeros((2, *contract.network_input.shape), np.float32)
    images[1, 0, 3, 4] = value
    with pytest.raises(Exception, match="images must be finite; number 1 of the batch holds 1 NaN or infinit"):
        infer(server, NETWORK_MODEL, "INPUT", images, "FP32", ["MASK"])
    assert infer(server, NETWORK_MODEL, "INPUT", images[:1], "FP32", ["MASK"]).as_numpy("MASK").shape[0] == 1


def test_model_control_is_closed_to_clients(server: Server) -> None:
    # With these, one client could take the model from all others or read their images.
    with grpc.InferenceServerClient(server.grpc_url) as raw:
        calls: tuple[Callable[[], object], ...] = (
            lambda: raw.unload_model(PIPELINE_MODEL),
            lambda: raw.load_model(PIPELINE_MODEL),
            lambda: raw.register_system_shared_memory("region", "/region", 16),
            lambda: raw.register_cuda_shared_memory("region", b"", 0, 16),
            lambda: raw.update_trace_settings(PIPELINE_MODEL, {"trace_file": "/tmp/x"}),
            lambda: raw.update_log_settings({"log_file": "/tmp/x"}),
        )
        for call in calls:
            with pytest.raises(Exception, match="PERMISSION_DENIED"):
                call()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_no_server_there(protocol: Any) -> None:
    with Client("127.0.0.1:9", protocol, connect_timeout=2) as client, pytest.raises(ServerUnavailable) as error:
        client.segment(b"")
    assert "127.0.0.1:9" in str(error.value)
    assert "\n" not in str(error.value)


def infer(server: Server, model: str, name: str, values: NDArray[Any], dtype: str, outputs: list[str]) -> Any:
    """Send one tensor through tritonclient alone, as a client of another make would."""
    tensor = grpc.InferInput(name, values.shape, dtype)
    tensor.set_data_from_numpy(values)
    with grpc.InferenceServerClient(server.grpc_url) as raw:
        return raw.infer(model, [tensor], outputs=[grpc.InferRequestedOutput(output) for output in outputs])
