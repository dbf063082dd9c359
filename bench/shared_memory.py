"""Open the ways into the server that are closed to clients, to measure them next to the open ones.

They are sockets, which only the user who started the server can reach.
"""

from contextlib import AbstractContextManager, closing
from types import TracebackType
from typing import Any

import numpy as np
import tritonclient.grpc as grpc_api
from tritonclient.utils import shared_memory

from bench.conftest import Subject
from deploy.client.transport import inference_request
from deploy.contract import PIPELINE_MODEL
from deploy.server import Server

OUTPUTS = ("MASK", "CLASS_PROBS")


def request_for(api: Any, subject: Subject) -> dict[str, Any]:
    """Return the arguments of an inference on the subject's image, as the client sends them."""
    image = np.frombuffer(subject.image, np.uint8)
    return inference_request(api, image, subject.contract, list(OUTPUTS), "bench")


def bare_grpc(server: Server) -> AbstractContextManager[Any]:
    """Connect to tritonserver's own gRPC endpoint, past the proxy."""
    return closing(grpc_api.InferenceServerClient(f"unix:{server.internal.grpc}"))


class SharedMemory:
    """Share the memory of image and mask with the server, so that the request carries neither."""

    def __init__(self, server: Server, subject: Subject) -> None:
        self._client = grpc_api.InferenceServerClient(f"unix:{server.internal.grpc}")
        image = np.frombuffer(subject.image, np.uint8)[None]
        mask_bytes = subject.contract.image_size**2
        self._regions = {
            name: shared_memory.create_shared_memory_region(name, f"/{name}", size)
            for name, size in (("bench_image", image.nbytes), ("bench_mask", mask_bytes))
        }
        # Once and for all: what is measured is the way without the copies, not the copy into the region.
        shared_memory.set_shared_memory_region(self._regions["bench_image"], [image])
        source = grpc_api.InferInput(subject.contract.encoded_image.name, list(image.shape), "UINT8")
        source.set_shared_memory("bench_image", image.nbytes)
        mask, classes = (grpc_api.InferRequestedOutput(name) for name in OUTPUTS)
        # The class probabilities are a few bytes and come with the answer.
        mask.set_shared_memory("bench_mask", mask_bytes)
        self._arguments = {"model_name": PIPELINE_MODEL, "inputs": [source], "outputs": [mask, classes]}
        for name, size in (("bench_image", image.nbytes), ("bench_mask", mask_bytes)):
            self._client.register_system_shared_memory(name, f"/{name}", size)

    def infer(self) -> Any:
        """Run one inference and return the mask, (S, S) uint8, which lies in the region."""
        answer = self._client.infer(**self._arguments)
        spec = answer.get_output("MASK")
        return shared_memory.get_contents_as_numpy(self._regions["bench_mask"], np.uint8, list(spec.shape))

    def __enter__(self) -> "SharedMemory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The server lets go of the regions before they are destroyed under it.
        self._client.unregister_system_shared_memory()
        for region in self._regions.values():
            shared_memory.destroy_shared_memory_region(region)
        self._client.close()
