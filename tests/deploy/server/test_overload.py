"""Ask more than a worker can answer, leave before it has, and keep it long: nothing is computed for nobody."""

import io
import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse

import grpc
import pytest
from PIL import Image
from tritonclient.grpc import service_pb2 as schema

from deploy.client import Client, InvalidImage
from deploy.contract import PIPELINE_MODEL
from deploy.server import Server, ServerError
from deploy.server.options import MAX_REQUEST_BYTES
from deploy.server.process.workers import workers_of
from deploy.server.proxy.admission import WAITING
from deploy.server.proxy.grpc_proxy import INFER, OVERHEAD_BYTES
from deploy.server.proxy.request import MOST_JSON

MakeImage = Callable[..., bytes]
PATH = f"/v2/models/{PIPELINE_MODEL}/infer"


def message(data: bytes, timeout: int = 0) -> bytes:
    """Return an inference as gRPC sends it, with microseconds that it may wait."""
    request = schema.ModelInferRequest(model_name=PIPELINE_MODEL, raw_input_contents=[data])
    request.inputs.add(name="IMAGE", datatype="UINT8", shape=[1, len(data)])
    if timeout:
        request.parameters["timeout"].int64_param = timeout
    return bytes(request.SerializeToString())


def post(server: Server, data: bytes, timeout: int = 0) -> HTTPConnection:
    """Send an inference over HTTP and return the connection on which its answer will come."""
    tensor = {"name": "IMAGE", "datatype": "UINT8", "shape": [1, len(data)], "data": list(data)}
    parameters = {"timeout": timeout} if timeout else {}
    connection = HTTPConnection(server.http_url, timeout=30)
    connection.request("POST", PATH, json.dumps({"inputs": [tensor], "parameters": parameters}))
    return connection


@contextmanager
def stopped_worker(server: Server) -> Iterator[None]:
    """Stop the worker for as long as the block lasts."""
    (worker,) = workers_of(server.pid, PIPELINE_MODEL)
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


def measured(server: Server, name: str) -> float:
    """Return a value of the metrics, 0 where it is not there."""
    with urllib.request.urlopen(f"http://{server.metrics_url}/metrics") as response:
        lines = [line.rpartition(" ") for line in response.read().decode().splitlines()]
    return next((float(value) for found, _, value in lines if found == name), 0.0)


def wait_for(server: Server, name: str, value: float) -> None:
    """Wait until a value of the metrics is reached."""
    deadline = time.monotonic() + 30
    while measured(server, name) != value:
        assert time.monotonic() < deadline, f"{name} is {measured(server, name)}, not {value}"
        time.sleep(0.05)


WAITS = f'resformer_waiting_requests{{model="{PIPELINE_MODEL}"}}'
GONE = 'resformer_rejected_requests_total{reason="client_gone"}'


@pytest.fixture(scope="module")
def infer(server: Server) -> Iterator[grpc.UnaryUnaryMultiCallable]:
    """Call over one channel, without a limit on what is sent."""
    with grpc.insecure_channel(server.grpc_url, [("grpc.max_send_message_length", -1)]) as channel:
        yield channel.unary_unary(INFER)


def executions(server: Server) -> int:
    """Return how many inferences the model's worker has made, good and bad."""
    content = server.internal.request("GET", f"/v2/models/{PIPELINE_MODEL}/stats", timeout=10)
    statistics = json.loads(content)["model_stats"][0]["inference_stats"]
    return int(statistics["success"]["count"]) + int(statistics["fail"]["count"])


def test_nothing_is_computed_for_clients_that_have_gone(
    server: Server, infer: grpc.UnaryUnaryMultiCallable, make_image: MakeImage
) -> None:
    data = make_image()
    before, gone = executions(server), measured(server, GONE)
    with stopped_worker(server):
        calls = [infer.future(message(data), timeout=30) for _ in range(15)]
        connections = [post(server, data) for _ in range(15)]
        wait_for(server, WAITS, 29)
        for call in calls:
            call.cancel()
        for connection in connections:
            connection.close()
        wait_for(server, WAITS, 0)
    assert infer(message(data), timeout=30)
    assert executions(server) == before + 2, "the one that the worker had, and the last"
    assert measured(server, GONE) == gone + 30


def answers(connections: Sequence[HTTPConnection]) -> list[int]:
    return [connection.getresponse().status for connection in connections]


def test_more_than_may_wait_are_told_to_come_back(
    server: Server, infer: grpc.UnaryUnaryMultiCallable, make_image: MakeImage
) -> None:
    data = make_image()
    with stopped_worker(server):
        calls = [infer.future(message(data), timeout=60) for _ in range(20)]
        connections = [post(server, data) for _ in range(WAITING + 1 - len(calls))]
        wait_for(server, WAITS, WAITING)
        with pytest.raises(grpc.RpcError) as refused:
            infer(message(data), timeout=30)
        with closing(post(server, data)) as connection:
            response = connection.getresponse()
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    hints = dict(refused.value.trailing_metadata())
    assert (hints["retry-after"], hints["grpc-retry-pushback-ms"]) == ("1", "1000")
    assert (response.status, response.headers["Retry-After"]) == (503, "1")
    assert answers(connections) == [200] * len(connections)
    assert all(call.result() for call in calls)


def test_a_request_whose_timeout_has_passed_is_dropped(
    server: Server, infer: grpc.UnaryUnaryMultiCallable, make_image: MakeImage
) -> None:
    data = make_image()
    before = executions(server)
    with stopped_worker(server):
        first = infer.future(message(data), timeout=30)
        with closing(post(server, data, timeout=1000)) as connection:
            assert connection.getresponse().status == 504
        with pytest.raises(grpc.RpcError) as expired:
            infer(message(data, timeout=1000), timeout=30)
    assert expired.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert first.result()
    assert executions(server) == before + 1


def test_a_stream_answers_what_it_can(server: Server, make_image: MakeImage) -> None:
    """Hold a stream to one answer for each request, in order, and to go on after one that fails."""
    image = make_image()
    with grpc.insecure_channel(server.grpc_url) as channel:
        stream = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            response_deserializer=schema.ModelStreamInferResponse.FromString,
        )
        sent = [message(image), message(b"no image"), b"\xff", message(image)]
        first, second, third, fourth = stream(iter(sent), timeout=30)
    assert first.infer_response.raw_output_contents == fourth.infer_response.raw_output_contents
    assert first.infer_response.id != fourth.infer_response.id, "each has an id, by which the log calls it"
    assert second.error_message.startswith("not an image")
    assert second.infer_response.id, "a client of many requests tells by it which one has failed"
    assert third.error_message == "the message ends within a field"


def test_a_message_beyond_the_limit_is_the_client_s_mistake(server: Server) -> None:
    with Client(server.grpc_url) as client, pytest.raises(InvalidImage, match="larger than the server takes"):
        client.segment(bytes(MAX_REQUEST_BYTES + OVERHEAD_BYTES))


def test_large_json_is_refused_before_it_is_sent(server: Server) -> None:
    with closing(HTTPConnection(server.http_url, timeout=30)) as connection:
        connection.putrequest("POST", PATH)
        connection.putheader("Content-Length", str(MOST_JSON + 1))
        connection.endheaders()
        response: HTTPResponse = connection.getresponse()
        assert (response.status, b"binary_data_size" in response.read()) == (413, True)


def test_a_busy_worker_is_not_taken_for_one_that_hangs(
    server: Server, infer: grpc.UnaryUnaryMultiCallable, make_image: MakeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO()
    Image.new("RGB", (9000, 8000)).save(file, "PNG")
    # Far less than 72 million pixels take, as a probe's patience is for larger images and networks.
    monkeypatch.setitem(server._probe._patience, PIPELINE_MODEL, 0.2)
    call, checks = infer.future(message(file.getvalue()), timeout=100), 0
    wait_for_work(server)
    while not call.done():
        server.check(PIPELINE_MODEL)
        checks += 1
    assert call.result()
    assert checks > 1
    # The same with a worker that does nothing.
    with stopped_worker(server):
        call = infer.future(message(make_image()), timeout=100)
        wait_for_work(server)
        with pytest.raises(ServerError, match=r"no answer within 0\.2 s"):
            server.check(PIPELINE_MODEL)
    assert call.result()


def wait_for_work(server: Server) -> None:
    deadline = time.monotonic() + 10
    while not server._admission.busy(PIPELINE_MODEL) and time.monotonic() < deadline:
        time.sleep(0.01)
