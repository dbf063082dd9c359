"""Check manifests against the models that KServe and Compose publish: nothing unknown, nothing of a wrong type."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_pydantic import ComposeSpecification

from deploy.contract import Contract
from deploy.manifest.__main__ import main
from deploy.repository.gpu import write_gpu_repository


@pytest.fixture(scope="module")
def gpu_repository(contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a GPU repository without its plan, which no machine without a GPU can build."""
    return write_gpu_repository(tmp_path_factory.mktemp("gpu"), contract, None)


def written(repository: Path, kind: str, output: Path, *flags: str) -> dict[str, Any]:
    assert main(["--format", kind, "--repository", str(repository), "--output", str(output), *flags]) == 0
    return {file.name: yaml.safe_load(file.read_text()) for file in output.iterdir()}


# In a process of its own: kserve and tritonclient both register the protocol's messages, and only one may.
THROUGH_THE_MODELS = """
import json, sys, types
import kserve.models, kubernetes.client.models
from kserve import ApiClient, V1beta1InferenceService

def kubernetes_model(name):
    # KServe's models name Kubernetes' own without importing them, and spell their types in another way.
    model = getattr(kubernetes.client.models, name)
    kinds = {field: kind.replace("List[", "list[").replace("Dict[str, str]", "dict(str, str)")
             for field, kind in model.openapi_types.items()}
    return type(name, (model,), {"openapi_types": kinds})

kserve.models.__getattr__ = kubernetes_model
client = ApiClient()
read = client.deserialize(types.SimpleNamespace(data=sys.stdin.read()), V1beta1InferenceService)
print(json.dumps(client.sanitize_for_serialization(read)))
"""


def through_the_models(document: dict[str, Any]) -> Any:
    """Return the document as KServe's own models read and write it, which lose what they do not know."""
    command = [sys.executable, "-c", THROUGH_THE_MODELS]
    run = subprocess.run(command, input=json.dumps(document), capture_output=True, text=True, check=True)
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["spec"]["predictor"]["model"].pop("name") == "", "a container's name, which KServe gives"
    return result


def test_inference_service_is_what_kserve_reads(gpu_repository: Path, tmp_path: Path) -> None:
    (document,) = written(gpu_repository, "kserve", tmp_path, "--name", "oct", "--storage", "s3://bucket/oct").values()
    assert through_the_models(document) == document
    predictor = document["spec"]["predictor"]
    # Two batches of four: one computes while the next gathers.
    assert (predictor["scaleMetric"], predictor["scaleTarget"]) == ("concurrency", 8)
    model = predictor["model"]
    assert model["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert model["storageUri"] == "s3://bucket/oct"
    assert {model[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness")} == {"/v2/health/ready"}


def test_an_unknown_field_would_be_noticed(gpu_repository: Path, tmp_path: Path) -> None:
    (document,) = written(gpu_repository, "kserve", tmp_path).values()
    document["spec"]["predictor"]["model"]["readyProbe"] = {}
    assert through_the_models(document) != document


def test_compose_project_is_what_compose_reads(gpu_repository: Path, tmp_path: Path) -> None:
    files = written(gpu_repository, "compose", tmp_path / "out", "--tag", "26.02-py3")
    project = ComposeSpecification.model_validate(files["compose.yaml"])
    assert project.services is not None
    triton = project.services["triton"]
    assert triton.image == "nvcr.io/nvidia/tritonserver:26.02-py3"
    # Compose resolves the path from the compose file's folder.
    source = files["compose.yaml"]["services"]["triton"]["volumes"][0]["source"]
    assert (tmp_path / "out" / source).resolve() == gpu_repository.resolve()
    prometheus = files["compose.yaml"]["services"]["prometheus"]["volumes"][0]["source"]
    assert (tmp_path / "out" / prometheus).is_file()
    for service in files["compose.yaml"]["services"].values():
        # Docker publishes a port without an address on every interface, past the host's firewall.
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    (job,) = files["prometheus.yml"]["scrape_configs"]
    assert job["static_configs"][0]["targets"] == ["triton:8002"]


def test_a_dollar_in_a_path_is_no_variable(contract: Contract, tmp_path: Path) -> None:
    repository = write_gpu_repository(tmp_path / "a$HOME", contract, None)
    document = written(repository, "compose", tmp_path / "out")["compose.yaml"]
    assert document["services"]["triton"]["volumes"][0]["source"].count("$$HOME") == 1


@pytest.mark.parametrize("what", ["missing", "for a CPU"])
def test_other_repositories_are_refused(
    what: str, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = repository if what == "for a CPU" else tmp_path / "none"
    assert main(["--format", "kserve", "--repository", str(given), "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == (
        f"error: {given} is no GPU repository: write one with python -m deploy.build_engine --repository gpu\n"
    )
    # A refusal leaves nothing behind that could be taken for a manifest.
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags",
    [
        *(("--name", "Oct_1"), ("--concurrency", "0"), ("--max-replicas", "-1")),
        *(("--storage", "not a uri"), ("--storage", "s3://a b"), ("--tag", "x y:z")),
    ],
)
def test_misuse(flags: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--format", "compose", *flags])
    assert stopped.value.code == 2
