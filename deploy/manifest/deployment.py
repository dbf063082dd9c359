"""Describe one deployment, from which both kinds of file are written."""

from dataclasses import dataclass
from pathlib import Path

# The server of NVIDIA's container, with the TensorRT and DALI backends. A plan runs only with the TensorRT it was built
# with: the container's release notes name it.
IMAGE = "nvcr.io/nvidia/tritonserver"
TAG = "26.06-py3"
READY, LIVE = "/v2/health/ready", "/v2/health/live"
# Loading plans, capturing CUDA graphs and warming up take their time.
START_SECONDS = 300
DRAIN_SECONDS = 30
# A model that cannot be loaded, or fails its warm-up, must keep the server from calling itself ready.
ARGUMENTS = ("--strict-readiness=true", "--exit-on-error=true", f"--exit-timeout-secs={DRAIN_SECONDS}")


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Describe a deployment of the GPU repository.

    name: of the service.
    repository: path of the GPU repository on this machine.
    tag: of NVIDIA's image.
    concurrency: requests in flight that one GPU should see. More of them call for another replica.
    storage: URI where a cluster finds the repository.
    replicas: the largest number of them.
    """

    name: str
    repository: Path
    tag: str
    concurrency: int
    storage: str
    replicas: int
