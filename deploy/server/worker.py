"""Serve the two models of a repository inside the server's Python backend.

A repository's `model.py` imports one of the classes as `TritonPythonModel`, the name that the server looks for.
"""

import gc
import json
import os
import shutil
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from data_pipeline import ImageError, Preprocessor
from data_pipeline.image_header import MAX_PIXELS, read_header
from deploy.content import FILES_HASH, GOLDEN, read_version, version_fingerprint
from deploy.contract import LONGEST_ID, PROBE_VARIABLE, Contract
from deploy.network import InputError, Network
from deploy.network.golden import Golden
from deploy.network.parity import EngineOutput

JPEG_SIGNATURE = b"\xff\xd8"


class NetworkModel:
    """Serve `resformer_network`: normalised images in, the network's outputs out."""

    # The server makes the object without arguments: `initialize` is its constructor and sets all of these.
    parameters: dict[str, str]
    contract: Contract
    network: Network
    rejected: Any  # pb_utils.MetricFamily

    def initialize(self, args: dict[str, str]) -> None:
        """Compile the network in the model file's folder, and compare its answers with PyTorch's.

        The server calls this once. Raises RuntimeError where this is not what was verified, or computes otherwise.
        """
        # The backend's compiled half was built for numpy 1: under 2 it sends 0 bytes and reads every input as ones.
        if int(np.__version__.split(".")[0]) >= 2:
            raise RuntimeError(f"the server's Python backend needs numpy below 2, found {np.__version__}")
        self.parameters = {
            name: value["string_value"] for name, value in json.loads(args["model_config"])["parameters"].items()
        }
        self.contract = Contract.from_json(self.parameters["contract"])
        folder = Path(args["model_repository"], args["model_version"])
        # The backend's Python heeds no variable that would keep it from writing here, where others may not read it.
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)
        contents = self._verified_files(folder)
        name = self.parameters["network"]
        self.network = Network(
            contents[name],
            self.parameters["execution"],
            # The build does not write it: `deploy.server.model_configs.adapted` adds it for the machine.
            threads=int(self.parameters.get("threads", 0)),
            weights=contents.get(Path(name).with_suffix(".bin").name, b""),
        )
        self.prepare()
        self._compare(Golden.from_bytes(contents[GOLDEN]))
        self.rejected = pb_utils.MetricFamily(
            name="resformer_rejected_images_total",
            description="Images that could not be used",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        # What is loaded stays. The garbage collector would walk over all of it now and then, within some request.
        gc.collect()
        gc.freeze()

    def finalize(self) -> None:
        """Let go of the counter while the server's side of it still exists.

        The server calls this before it ends the worker.
        """
        del self.rejected

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the waiting requests with one response each, in order.

        The server calls this.
        """
        return [self._respond(request) for request in requests]

    def prepare(self) -> None:
        """Make what turns a request's images into the network's, once the contract is known."""

    def golden_images(self, golden: Golden) -> Iterator[NDArray[np.float32]]:
        """Yield the golden images, each (3, S, S), as those of a request reach the network."""
        yield from golden.normalised(self.contract.preprocessing)

    def images(self, request: Any) -> tuple[Iterator[NDArray[np.float32]], int]:
        """Return the request's normalised images, each (3, S, S), and their number."""
        batch = read(request, self.contract.network_input.name)
        return iter(batch), len(batch)

    def _verified_files(self, folder: Path) -> dict[str, bytes]:
        """Read the version's files, once, so that what is checked is what is opened."""
        contents = read_version(folder, self.parameters["network"])
        if version_fingerprint(contents) != self.parameters[FILES_HASH]:
            raise RuntimeError(f"the files of version {folder.name} are not those that were verified")
        return contents

    def _compare(self, golden: Golden) -> None:
        """Raise RuntimeError where the network answers otherwise on this machine than it did when it was verified."""
        outputs = self.network(self.golden_images(golden), len(golden.images))
        answers = EngineOutput(*(outputs[spec.name] for spec in self.contract.outputs))
        if faults := golden.faults(answers):
            execution = self.parameters["execution"]
            raise RuntimeError(f"{execution} answers otherwise here than where it was verified: {'; '.join(faults)}")

    def _respond(self, request: Any) -> Any:
        begin, rejected = time.monotonic(), ""
        try:
            outputs = self.network(*self.images(request), set(request.requested_output_names()))
        except (ImageError, InputError) as error:
            rejected = error.reason
            self.rejected.Metric(labels={"reason": rejected}).increment(1)
            return refuse(str(error), pb_utils.TritonError.INVALID_ARG)
        except Exception as error:
            rejected = "internal"
            # Left uncaught, the server would send the traceback, with this machine's paths, to the client.
            pb_utils.Logger.log_error(f"request {request.request_id()!r}: {type(error).__name__}: {error}")
            return refuse("the server failed on this request; its log says why", pb_utils.TritonError.INTERNAL)
        finally:
            log_request(request.request_id(), rejected, time.monotonic() - begin)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in outputs.items()])


class ImageModel(NetworkModel):
    """Serve `resformer`: encoded images in, the network's outputs out, decoded by the graph that training used."""

    max_bytes: int
    preprocess: Preprocessor

    def prepare(self) -> None:
        """Build the preprocessing pipeline."""
        self.max_bytes = int(self.parameters.get("max_request_bytes", sys.maxsize))
        self.preprocess = Preprocessor(self.contract.preprocessing)

    def golden_images(self, golden: Golden) -> Iterator[NDArray[np.float32]]:
        """Yield the golden images, each (3, S, S), decoded from files as those of a request are."""
        return map(self.preprocess, golden.encoded())

    def images(self, request: Any) -> tuple[Iterator[NDArray[np.float32]], int]:
        """Return the request's images, decoded one by one as the network takes them, and their number.

        Raises ImageError for a request above the limits on bytes and pixels, and while iterating for an image that is
        none.
        """
        rows = read(request, self.contract.encoded_image.name)
        # The proxy holds HTTP to the limit. tritonserver has none for gRPC, so it is checked here.
        if rows.nbytes > self.max_bytes:
            message = f"the request holds {rows.nbytes:,} bytes of images, more than the limit of {self.max_bytes:,}"
            raise ImageError(message, "too_many_bytes")
        if len(rows) > 1:
            check_batch(rows)
        return map(self._preprocess, rows, named(rows)), len(rows)

    def _preprocess(self, row: NDArray[np.uint8], name: str) -> NDArray[np.float32]:
        data = row.tobytes()
        # Or the zeros that fill up a row would pass for the rest of a file that was cut. A TIFF may end in zeros.
        if data.startswith(JPEG_SIGNATURE):
            data = data.rstrip(b"\0")
        try:
            return self.preprocess(data)
        except ImageError as error:
            raise ImageError(f"{name}{error}", error.reason) from error


def named(rows: Collection[Any]) -> list[str]:
    """Return what a message about each image of a request begins with: its number, where it is one of several."""
    return [f"number {row} of the batch: " for row in range(len(rows))] if len(rows) > 1 else [""]


def check_batch(rows: NDArray[np.uint8]) -> None:
    """Raise ImageError where the images of one request have more pixels than one image may have.

    They would hold up all other requests for as many times longer.
    """
    pixels = 0
    for row, name in zip(rows, named(rows), strict=True):
        try:
            header = read_header(row.tobytes())
        except ImageError as error:
            raise ImageError(f"{name}{error}", error.reason) from error
        pixels += header.width * header.height
    if pixels > MAX_PIXELS:
        message = f"the request's images have {pixels:,} pixels together, more than the limit of {MAX_PIXELS:,}"
        raise ImageError(message, "too_many_pixels")


def read(request: Any, name: str) -> NDArray[Any]:
    """Return an input tensor as a view of the server's shared memory."""
    array: NDArray[Any] = pb_utils.get_input_tensor_by_name(request, name).as_numpy()
    return array


def log_request(identity: str, rejected: str, seconds: float) -> None:
    """Print one line of JSON about a request for the server's log."""
    # The probe asks every second and would fill the log.
    if identity != os.environ.get(PROBE_VARIABLE):
        line = {"request": identity[:LONGEST_ID], "rejected": rejected, "milliseconds": round(1000 * seconds, 1)}
        print(json.dumps(line), flush=True)


def refuse(message: str, code: int) -> Any:
    """Return a response that carries one line of explanation and nothing else."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
