"""Write a Compose project: NVIDIA's server on this machine's GPU, and Prometheus that reads its metrics."""

import os
from pathlib import Path
from typing import Any

from deploy.manifest.deployment import ARGUMENTS, DRAIN_SECONDS, IMAGE, READY, START_SECONDS, Deployment

MODELS = "/models"
METRICS_PORT = 8002
PROMETHEUS = "prom/prometheus:v3.5.0"
PROMETHEUS_FILE = "prometheus.yml"


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
    return {"type": "bind", "source": source, "target": target, "read_only": True}
