"""What both kinds of file are written from."""

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


@dataclass(frozen=True)
class Deployment:
    """name: of the service.  repository: the GPU repository here.  tag: of NVIDIA's image.

    concurrency: requests in flight that one GPU should see; more of them ask for another replica.
    storage: where a cluster finds the repository.  replicas: most of them.
    """

    name: str
    repository: Path
    tag: str
    concurrency: int
    storage: str
    replicas: int
