"""Write an InferenceService of KServe (serving.kserve.io/v1beta1) with its runtime for Triton Inference Server."""

from typing import Any

from deploy.manifest.deployment import ARGUMENTS, DRAIN_SECONDS, LIVE, READY, START_SECONDS, Deployment

# Where KServe's runtime for the server listens.
HTTP_PORT = 8080
PERIOD_SECONDS = 5
RESOURCES = {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "1"}


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
