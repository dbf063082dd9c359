"""Describe where the GPU repository is to run: on a cluster with KServe, or on a machine with Docker Compose."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
# Of Compose.
MODELS = "/models"
METRICS_PORT = 8002
PROMETHEUS = "prom/prometheus:v3.5.0"
PROMETHEUS_FILE = "prometheus.yml"
# Of KServe, whose runtime for the server listens on this port.
HTTP_PORT = 8080
PERIOD_SECONDS = 5
RESOURCES = {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "1"}


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


def project(deployment: Deployment, folder: Path) -> dict[str, Any]:
    """Return the project for a compose file in `folder`."""
    # Every port, here and below, is open to this machine alone: neither service asks for a password.
    prometheus = {
        "image": PROMETHEUS,
        "depends_on": {"triton": {"condition": "service_healthy"}},
        "ports": ["127.0.0.1:9090:9090"],
        "volumes": [bind(f"./{PROMETHEUS_FILE}", f"/etc/prometheus/{PROMETHEUS_FILE}")],
        "restart": "unless-stopped",
    }
    return {"name": deployment.name, "services": {"triton": triton(deployment, folder), "prometheus": prometheus}}


def triton(deployment: Deployment, folder: Path) -> dict[str, Any]:
    """Return the server's service."""
    # Compose resolves paths from the compose file, and takes one without a leading dot for the name of a volume.
    repository = os.path.relpath(deployment.repository, folder)
    gpu = {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    return {
        "image": f"{IMAGE}:{deployment.tag}",
        "command": ["tritonserver", f"--model-repository={MODELS}", *ARGUMENTS],
        "volumes": [bind(repository if repository.startswith(".") else f"./{repository}", MODELS)],
        "ports": [f"127.0.0.1:{port}:{port}" for port in (8000, 8001, METRICS_PORT)],
        "deploy": {"resources": {"reservations": {"devices": [gpu]}}},
        # Docker's default is 64 MB, which the backends' shared memory can exceed.
        "shm_size": "1gb",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "healthcheck": {
            "test": ["CMD", "curl", "--fail", "--silent", f"http://127.0.0.1:8000{READY}"],
            "interval": "5s",
            "timeout": "3s",
            "retries": 3,
            "start_period": f"{START_SECONDS}s",
        },
        # The server drains by itself first: a kill must come after its own timeout.
        "stop_grace_period": f"{DRAIN_SECONDS + 5}s",
        "restart": "unless-stopped",
    }


def prometheus_configuration() -> dict[str, Any]:
    """Return what Prometheus reads: the server's metrics."""
    target = {"job_name": "triton", "static_configs": [{"targets": [f"triton:{METRICS_PORT}"]}]}
    # Often enough to see a burst of requests. The default is once a minute.
    return {"global": {"scrape_interval": "5s"}, "scrape_configs": [target]}


def bind(source: str, target: str) -> dict[str, Any]:
    """Return a read-only mount of a file or folder of this machine."""
    # A single $ would begin the name of a variable.
    return {"type": "bind", "source": source.replace("$", "$$"), "target": target, "read_only": True}


def inference_service(deployment: Deployment) -> dict[str, Any]:
    """Return the service: one GPU a replica, and one replica more for every `concurrency` requests in flight."""
    model = {
        "modelFormat": {"name": "triton"},
        "runtime": "kserve-tritonserver",
        "runtimeVersion": deployment.tag,
        "protocolVersion": "v2",
        "storageUri": deployment.storage,
        "args": list(ARGUMENTS),
        # Kubernetes takes GPUs only where requests and limits are equal.
        "resources": {"requests": dict(RESOURCES), "limits": dict(RESOURCES)},
        # While the startup probe runs, the other two wait: a slow start is not taken for a dead server.
        "startupProbe": probe(READY, failures=START_SECONDS // PERIOD_SECONDS),
        "readinessProbe": probe(READY, failures=2),
        "livenessProbe": probe(LIVE, failures=6),
    }
    predictor = {
        "minReplicas": 1,
        "maxReplicas": deployment.replicas,
        "scaleMetric": "concurrency",
        "scaleTarget": deployment.concurrency,
        "terminationGracePeriodSeconds": DRAIN_SECONDS + PERIOD_SECONDS,
        "model": model,
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": deployment.name},
        "spec": {"predictor": predictor},
    }


def probe(path: str, *, failures: int) -> dict[str, Any]:
    """Return a probe that asks every few seconds and fails after `failures` bad responses in a row."""
    return {
        "httpGet": {"path": path, "port": HTTP_PORT},
        "periodSeconds": PERIOD_SECONDS,
        "failureThreshold": failures,
    }
