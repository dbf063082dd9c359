"""Run the command end to end: real exports, real OpenVINO, real TensorRT-RTX."""

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from PIL import Image
from safetensors.torch import save_file

from deploy import build_engine, demo
from deploy.building.plan import contract_of
from deploy.engines import TARGETS, BuildRequest, EngineRequest, GpuOptions, cpu_runner
from deploy.engines.base import Progress
from deploy.engines.openvino_cpu import OpenVinoTarget
from deploy.engines.tensorrt_target import TensorRtTarget
from deploy.errors import BuildError
from deploy.files import DIRECTORY
from deploy.report import read_report, served_note
from deploy.verify import PARITY_TOLERANCE, Parity
from model.checkpoint import FORMAT, Checkpoint, load_checkpoint, save_checkpoint
from tests.deploy.conftest import Built, working_directory

ENGINES = ["model.onnx", "openvino.fp32.bin", "openvino.fp32.xml", "tensorrt-rtx.fp32.engine"]


def snapshot(built: Built) -> dict[str, int]:
    """Return the modification times of everything that a build leaves, by path."""
    files = [file for file in built.output.rglob("*") if file.is_file()]
    return {str(file.relative_to(built.output)): file.stat().st_mtime_ns for file in files}


def published(output: Path) -> set[str]:
    """Name what a build has left, without what it measured and traced for the next."""
    return {file.name for file in output.iterdir()} - {"export.graph_cache", "openvino.timing_cache"}


def test_a_build_leaves_verified_engines_and_nothing_else(built: Built) -> None:
    assert published(built.output) == {*ENGINES, "model_repository", "report.html", "report.json"}
    report = json.loads((built.output / "report.json").read_text())
    engines = {engine["target"]: engine for engine in report["engines"]}
    assert set(engines) == {"onnx", "openvino", "tensorrt-rtx"}
    for name in ("onnx", "openvino"):
        assert engines[name]["parity"]["mask"] <= 0.001
        assert engines[name]["scores"].keys() == report["reference_scores"].keys()
        assert engines[name]["latency_ms"] > 0
    assert engines["tensorrt-rtx"]["parity"] is None  # it cannot run here, and nothing pretends that it did
    assert "5 validation images of synthetic:skin" in report["samples"]


def test_the_page_stands_alone_and_shows_every_engine_and_overlay(built: Built) -> None:
    page = (built.output / "report.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert page.count("data:image/png;base64,") == 1 + 4 * 4  # the plot, and 4 rows: image, target, PyTorch, engine
    for text in ("onnxruntime", "openvino", "tensorrt_rtx", "needs an NVIDIA GPU", "seborrheic_keratosis"):
        assert text in page


def test_the_saved_openvino_engine_gives_what_the_onnx_file_gives(built: Built) -> None:
    image = np.random.default_rng(0).standard_normal((2, 3, 64, 64), dtype=np.float32)
    files = [built.output / name for name in ("model.onnx", "openvino.fp32.xml")]
    first, second = (cpu_runner(file, "openvino f32", 2)(image) for file in files)
    np.testing.assert_array_equal(first.mask, second.mask)
    np.testing.assert_allclose(first.class_probs, second.class_probs, atol=1e-4)
    np.testing.assert_allclose(first.seg_probs, second.seg_probs, atol=1e-4)


def test_nothing_is_built_again_until_something_changes(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(built)
    assert built.again("--max-batch", "4") == 0
    assert "nothing has changed" in capsys.readouterr().out
    assert snapshot(built) == before
    # The companion, and not the file that the report names.
    with (built.output / "openvino.fp32.bin").open("r+b") as weights:
        weights.write(b"tampered")
    assert built.again("--max-batch", "4") == 0
    after = snapshot(built)
    assert after["openvino.fp32.bin"] != before["openvino.fp32.bin"]
    assert after["tensorrt-rtx.fp32.engine"] == before["tensorrt-rtx.fp32.engine"]
    assert after["model.onnx"] == before["model.onnx"]


def test_engines_of_other_weights_do_not_stay_beside_new_ones(built: Built, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(built.output, output)
    checkpoint = load_checkpoint(built.checkpoint)
    state = {name: tensor * 0.9 if name.startswith("decoder") else tensor for name, tensor in checkpoint.state.items()}
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, Checkpoint(checkpoint.info, state))
    arguments = ["--checkpoint", str(other), "--output", str(output), "--samples", "5", "--max-batch", "1"]
    with working_directory(built.root):
        assert build_engine.main([*arguments, "--target", "tensorrt-rtx", "--precision", "fp16"]) == 0
    engines = {"model.onnx", "model.fp16.onnx", "tensorrt-rtx.fp16.engine"}
    assert published(output) == {*engines, "model_repository", "report.html", "report.json"}
    # Nothing but the ONNX files and an engine for a GPU is left, and the server still has something to run.
    jpeg = io.BytesIO()
    Image.new("RGB", (90, 70), (200, 150, 120)).save(jpeg, "JPEG")
    assert demo.query(output / DIRECTORY, jpeg.getvalue())["grpc"].mask.shape == (64, 64)


def test_the_gpu_repository_is_added_to_a_current_build(built: Built, tmp_path: Path) -> None:
    moved = Built(built.checkpoint, tmp_path / "out", built.root)
    shutil.copytree(built.output, moved.output)
    assert moved.again("--max-batch", "4", "--repository", "gpu") == 0
    graph = moved.output / "model_repository_gpu" / "resformer_preprocessing" / "1" / "model.dali"
    assert graph.stat().st_size > 0
    assert not list(moved.output.rglob("model.plan"))  # no GPU, no plan, and nothing pretends to be one
    engine = "tensorrt-rtx.fp32.engine"
    assert (moved.output / engine).read_bytes() == (built.output / engine).read_bytes()


class FaultyTarget(OpenVinoTarget):
    """Lose the convolutions' weights on the way, as a faulty conversion would."""

    def build(self, request: BuildRequest, path: Path, progress: Progress) -> None:
        """Convert a file whose convolutions are all zero."""
        model = onnx.load(request.onnx)
        for tensor in model.graph.initializer:
            if len(tensor.dims) == 4:
                tensor.raw_data = bytes(len(tensor.raw_data))
        # Only 4-axis tensors: the graph has to stay valid.
        damaged = path.with_name("damaged.onnx")
        onnx.save(model, damaged)
        openvino.save_model(openvino.convert_model(damaged), path)


def test_an_engine_that_lost_accuracy_is_refused_and_the_good_one_stays(
    built: Built, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(built)
    # Another version, or the engine of the last build would be current.
    monkeypatch.setitem(TARGETS, "openvino", FaultyTarget())
    monkeypatch.setattr(FaultyTarget, "version", lambda self: "faulty")
    assert built.again("--max-batch", "4", "--target", "openvino") == 1
    assert re.search(
        r"^error: openvino fp32 is refused and deleted: .* differs by .*, more than", capsys.readouterr().err
    )
    assert snapshot(built) == before


def test_a_precision_that_loses_too_much_is_refused_with_the_layers_that_hurt(
    built: Built, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(built)
    # A real fp16 file, which no longer is allowed to round.
    monkeypatch.setitem(PARITY_TOLERANCE, "fp16", Parity(mask=0, classification=0, segmentation=0))
    assert built.again("--max-batch", "4", "--target", "onnx", "--precision", "fp16") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"error: onnx fp16 is refused and deleted: .* differs by .*, more than 0e\+00; layers", line)
    assert len(re.findall(r"(?:encoder|decoder|dfe|head)\.\S+ \(0\.\d%\)", line)) == 5
    assert snapshot(built) == before


class HalfGoodTarget(FaultyTarget):
    """Build good engines in fp32 and broken ones in bf16."""

    precisions = ("fp32", "bf16")

    def check(self, request: EngineRequest) -> list[str]:
        """Accept bf16 on any processor."""
        return []

    def version(self) -> str:
        """Name a tool of its own, so that no engine of the real one counts as current."""
        return "half good"

    def build(self, request: BuildRequest, path: Path, progress: Progress) -> None:
        """Build as the target of the precision does."""
        (OpenVinoTarget if request.precision == "fp32" else FaultyTarget).build(self, request, path, progress)

    def execution(self, precision: str) -> str:
        """Compute in float32, which every processor has."""
        return "openvino f32"


def test_auto_goes_on_without_what_fails_and_serves_the_fastest_that_passes(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    shutil.copytree(built.output, output)
    moved = Built(built.checkpoint, output, built.root)
    monkeypatch.setitem(TARGETS, "openvino", HalfGoodTarget())
    auto = ["--max-batch", "4", "--target", "openvino", "--precision", "auto"]
    assert moved.again(*auto) == 0
    assert re.search(r"openvino bf16: openvino bf16 is refused and deleted: .*differs", capsys.readouterr().out)
    report = read_report(output)
    assert report is not None
    refused = {engine.name: engine.refused for engine in report.engines if engine.refused}
    assert list(refused) == ["openvino bf16"]
    assert not list(output.glob("openvino.bf16.*"))
    assert report.served.name in ("openvino fp32", "onnx fp32")
    assert "openvino bf16" in (output / "report.html").read_text().replace("</td><td>", " ")
    # A refusal is remembered: the same engine is not built again to be refused again.
    assert moved.again(*auto) == 0
    assert "nothing has changed" in capsys.readouterr().out
    # Asked for by name, it is an error as it would have been then.
    assert moved.again(*auto[:-1], "bf16") == 1
    assert re.search(r"^error: openvino bf16 is refused .*nothing has changed since\)$", capsys.readouterr().err)


def test_the_cpu_server_gets_no_engine_of_a_gpu(built: Built) -> None:
    report = read_report(built.output)
    assert report is not None
    # As on a machine with a GPU, where such an engine is run and is the fastest.
    times = {"onnx": 3.0, "openvino": 2.0, "tensorrt-rtx": 0.1}
    engines = tuple(
        replace(engine, parity=PARITY_TOLERANCE["fp32"], latency_ms=times[engine.target]) for engine in report.engines
    )
    assert replace(report, engines=engines).served.name == "openvino fp32"
    assert "tensorrt-rtx fp32 (0.1 ms) is faster but runs on a GPU" in served_note(replace(report, engines=engines))
    # Either runtime of a CPU is served, whichever is faster.
    times["onnx"] = 1.0
    engines = tuple(replace(engine, latency_ms=times[engine.target]) for engine in engines)
    assert replace(report, engines=engines).served.name == "onnx fp32"


def test_the_gpu_server_gets_the_fastest_plan_that_passed(built: Built) -> None:
    report = read_report(built.output)
    assert report is not None and report.plan is None
    plan = replace(report.engines[0], target="tensorrt", precision="fp32", latency_ms=2.0)
    faster = replace(plan, precision="fp16", latency_ms=1.0)
    never = (replace(plan, precision="bf16", latency_ms=None), replace(faster, precision="int8", refused="why"))
    plans = [plan, faster, *never]
    for order in (plans, plans[::-1]):
        chosen = replace(report, engines=(*report.engines, *order)).plan
        assert chosen is not None and chosen.name == "tensorrt fp16"


def test_weights_that_are_not_finite_are_refused(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = load_checkpoint(built.checkpoint)
    state = dict(checkpoint.state)
    name = "decoder.classify.weight"
    state[name] = state[name] * float("nan")
    broken, output = tmp_path / "nan.safetensors", tmp_path / "out"
    save_file(state, broken, metadata={"format": FORMAT, "info": checkpoint.info.to_json()})
    assert build_engine.main(["--checkpoint", str(broken), "--output", str(output)]) == 1
    # Found when the checkpoint is read, long before NaN would spoil every figure.
    assert f"holds NaN or infinite weights in 1 tensors, first in {name}" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "tensorrt"], "tensorrt builds on the GPU it will run on, and this machine has none"),
        (["--target", "torch-tensorrt"], "torch-tensorrt builds on the GPU it will run on, and this machine has none"),
        (["--target", "openvino", "--precision", "fp16"], "openvino builds fp32, bf16, int8, mixed, not fp16"),
        (["--target", "tensorrt-rtx", "--compute-capability", "9.0"], "must be one of 7.5, 8.0, .*, got 9.0"),
        (["--target", "tensorrt-rtx", "--compute-capability", "90"], "must be one of 7.5, 8.0, .*, got 9.0"),
        (["--target", "openvino", "--compute-capability", "8.6"], "needs --target tensorrt-rtx, got openvino$"),
        (
            ["--target", "onnx", "--target", "openvino", "--any-gpu"],
            "needs --target tensorrt or torch-.*, got onnx, ",
        ),
        (
            ["--target", "onnx", "--optimization-level", "3"],
            "needs --target tensorrt-rtx or .*, got onnx$",
        ),
        (["--target", "tensorrt-rtx", "--any-gpu"], "leave --any-gpu out"),
        (["--target", "onnx", "--precision", "tf32"], "onnx files have no tf32"),
        (["--target", "openvino", "--precision", "tf32"], "openvino builds fp32, bf16, int8, mixed, not tf32"),
        (["--checkpoint", "absent.safetensors"], "checkpoint absent.safetensors does not exist"),
        (["--checkpoint", "random:huge"], "preset must be one of paper-224"),
        (["--data", "synthetic:lung"], "synthetic:lung"),
        (
            ["--data", "synthetic:oct"],
            "the data's mask classes must be the checkpoint's background, lesion; got background, IRF",
        ),
        (["--target", "openvino", "--precision", "fp8"], "openvino builds fp32, bf16, int8, mixed, not fp8"),
        (
            ["--target", "tensorrt-rtx", "--precision", "fp8", "--compute-capability", "8.6"],
            "fp8 needs --compute-capability 8.9 or later, got 8.6",
        ),
        (["--output", "/proc/nowhere"], "/proc/nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_refused_in_one_line(
    built: Built, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(built)
    assert built.again("--max-batch", "4", *arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line)
    assert snapshot(built) == before


@pytest.mark.parametrize(
    "arguments", [["--target", "tpu"], ["--precision", "fp4"], ["--max-batch", "0"], ["--nonsense"]]
)
def test_misuse_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        build_engine.main(arguments)
    assert error.value.code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


def test_rtx_engines_take_compute_capabilities_and_report_progress(built: Built, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(built.checkpoint)
    contract = contract_of(checkpoint.info, 4)
    target, seen = TARGETS["tensorrt-rtx"], []
    assert isinstance(target, TensorRtTarget)
    sizes = {}
    for capabilities in (("8.6",), ("8.6", "12.0")):
        options = GpuOptions(compute_capabilities=capabilities, optimization_level=1)
        request = BuildRequest(
            model=checkpoint.build(),
            onnx=built.output / "model.onnx",
            contract=contract,
            precision="fp32",
            gpu=options,
        )
        target.build(request, tmp_path / "engine", lambda phase, share: seen.append((phase, share)))
        sizes[capabilities] = (tmp_path / "engine").stat().st_size
    assert sizes[("8.6",)] < sizes[("8.6", "12.0")]
    assert all(0 < share <= 1 for _, share in seen)
    assert seen[-1][1] == 1


def test_every_parser_error_is_reported(built: Built, tmp_path: Path) -> None:
    model = onnx.load(built.output / "model.onnx")
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "odd.onnx")
    checkpoint = load_checkpoint(built.checkpoint)
    contract = contract_of(checkpoint.info, 4)
    request = BuildRequest(model=checkpoint.build(), onnx=tmp_path / "odd.onnx", contract=contract, precision="fp32")
    with pytest.raises(BuildError, match=r"odd.onnx could not be parsed: NoSuchOperator node \S+: "):
        TARGETS["tensorrt-rtx"].build(request, tmp_path / "engine", lambda phase, share: None)
