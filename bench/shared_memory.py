"""Ways to the server that are closed to clients, measured beside those that are open: its key opens them here."""

from contextlib import AbstractContextManager, closing
from types import TracebackType
from typing import Any

import numpy as np
import tritonclient.grpc as grpc_api
import tritonclient.http as http_api
from tritonclient.utils import shared_memory

from bench.conftest import Subject
from deploy.client.transport import question
from deploy.contract import PIPELINE_MODEL
from deploy.server import Server
from deploy.server.internal_endpoint import ADDRESS

OUTPUTS = ("MASK", "CLASS_PROBS")


def request_for(api: Any, subject: Subject) -> dict[str, Any]:
    """The arguments of an inference on the subject's image, as the client sends them."""
    image = np.frombuffer(subject.image, np.uint8)
    return question(api, image, subject.contract, list(OUTPUTS), "bench")


def bare_http(server: Server) -> AbstractContextManager[Any]:
    """A connection to tritonserver's HTTP side, past the front."""
    return closing(http_api.InferenceServerClient(f"{ADDRESS}:{server.private.port}"))


class SharedMemory:
    """Image and mask in memory that client and server share; the request carries neither."""

    def __init__(self, server: Server, subject: Subject) -> None:
        self._client = grpc_api.InferenceServerClient(server.grpc_url)
        self._headers = {"triton-grpc-protocol-resformer-key": server.private.key}
        image = np.frombuffer(subject.image, np.uint8)[None]
        mask_bytes = subject.contract.image_size**2
        self._regions = {
            name: shared_memory.create_shared_memory_region(name, f"/{name}", size)
            for name, size in (("bench_image", image.nbytes), ("bench_mask", mask_bytes))
        }
        shared_memory.set_shared_memory_region(self._regions["bench_image"], [image])
        source = grpc_api.InferInput(subject.contract.encoded_image.name, list(image.shape), "UINT8")
        source.set_shared_memory("bench_image", image.nbytes)
        mask, classes = (grpc_api.InferRequestedOutput(name) for name in OUTPUTS)
        mask.set_shared_memory("bench_mask", mask_bytes)
        self._arguments = {"model_name": PIPELINE_MODEL, "inputs": [source], "outputs": [mask, classes]}
        for name, size in (("bench_image", image.nbytes), ("bench_mask", mask_bytes)):
            self._client.register_system_shared_memory(name, f"/{name}", size, headers=self._headers)

    def ask(self) -> Any:
        """One inference; the mask, (S, S) uint8, lies in the region."""
        answer = self._client.infer(**self._arguments)
        spec = answer.get_output("MASK")
        return shared_memory.get_contents_as_numpy(self._regions["bench_mask"], np.uint8, list(spec.shape))

    def __enter__(self) -> "SharedMemory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.unregister_system_shared_memory(headers=self._headers)
        for region in self._regions.values():
            shared_memory.destroy_shared_memory_region(region)
        self._client.close()
