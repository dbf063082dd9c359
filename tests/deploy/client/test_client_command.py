"""Run `python -m deploy.client` against the real server, as a person uses it."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from data_pipeline import Preprocessing
from data_pipeline.files import write_whole
from data_pipeline.spec import Thresholds
from deploy.client import Result, ServerFault
from deploy.client.__main__ import main
from deploy.client.image import FileResult, Wanted
from deploy.client.plan import find_files, plan
from deploy.client.summary import RESULT_FILE, read_results, table, write_result
from deploy.client.transport import read_contract
from deploy.contract import Contract
from deploy.demo import result_table
from deploy.server import Server
from tests.helpers.names import CLASSES, FILE, LABELS, NAMES


def test_mixed_run_answers_the_good_and_names_the_bad(
    server: Server,
    make_image: Callable[..., bytes],
    in_process: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    (folder / "eye.jpg").write_bytes(make_image((80, 60), "JPEG"))
    (folder / "deep" / "eye.png").write_bytes(make_image((33, 91), "PNG", seed=1))
    # In a folder, only files with an image's suffix are sent.
    (folder / "notes.txt").write_text("not sent")
    bad = tmp_path / "broken.png"
    bad.write_bytes(b"\x89PNG but no more")
    code = main([str(folder), str(bad), str(tmp_path / "gone.png"), "--url", server.grpc_url, "--output", str(output)])
    assert code == 1
    complaints = [line for line in capsys.readouterr().err.splitlines() if str(tmp_path) in line]
    assert [line.partition(": ")[0] for line in complaints] == [str(bad), str(tmp_path / "gone.png")]
    result = json.loads((output / "result.json").read_text())
    sizes = {Path(image["file"]).name: (image["width"], image["height"]) for image in result["images"]}
    assert sizes == {"eye.png": (33, 91), "eye.jpg": (80, 60)}
    assert result["thresholds"] == {"sensitive": [0.25, 0.4], "specific": [0.5, 0.6], "rate": 0.95}
    assert [Path(failure["file"]).name for failure in result["failures"]] == ["broken.png", "gone.png"]
    for image in result["images"]:
        expected = in_process(Path(image["file"]).read_bytes())
        np.testing.assert_allclose(list(image["classes"].values()), expected["CLASS_PROBS"], atol=1e-5)
        with Image.open(output / image["overlay"]) as overlay:
            assert overlay.size == (image["width"], image["height"])
            pixels = overlay.width * overlay.height
        # Resized to the image, a mask covers about the same share of it as of the network's square view.
        covered = sum(area["pixels"] for area in image["areas"].values())
        assert covered == pytest.approx(pixels * (expected["MASK"] > 0).mean(), abs=0.05 * pixels)
    # Two images are called "eye", and neither overlay may replace the other.
    assert len({image["overlay"] for image in result["images"]}) == 2


def test_http_side_by_the_command(server: Server, make_image: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(make_image())
    arguments = [str(tmp_path / "a.png"), "--protocol", "http", "--url", server.http_url, "--output", str(tmp_path)]
    assert main(arguments) == 0
    assert (tmp_path / "a.overlay.png").exists()


def test_dead_server_is_one_line_and_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    # Port 9 (discard) is not listened on.
    assert main([str(tmp_path / "a.png"), "--url", "127.0.0.1:9", "--output", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the server at 127.0.0.1:9")
    assert not (tmp_path / "out").exists()


def test_folder_without_images_is_misuse(tmp_path: Path) -> None:
    assert main([str(tmp_path), "--output", str(tmp_path / "out")]) == 2


def test_names_do_not_collide(tmp_path: Path) -> None:
    for name in ("a.png", "A.jpg", "b/a.tif", "b/a-2.png", "a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files = find_files([tmp_path, tmp_path / "a.png"], tmp_path / "out")
    tasks = plan(files, {"elsewhere/a.png": "a-3", str(tmp_path / "A.jpg"): "old"}, tmp_path / "out")
    assert len(tasks) == 4
    assert len({task.overlay.casefold() for task in tasks} | {"a-3.overlay.png"}) == 5
    assert {task.source.name: task.name for task in tasks}["A.jpg"] == "old"


def test_no_result_has_the_name_of_a_file_that_is_sent(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("photo.jpg", "photo.mask.png", "other.jpg")]
    for file in files:
        file.touch()
    names = {task.source.name: task.name for task in plan(files, {}, tmp_path)}
    assert names == {"photo.jpg": "photo-2", "photo.mask.png": "photo.mask", "other.jpg": "other"}
    # Where results go elsewhere nothing can be overwritten.
    assert [task.name for task in plan(files, {}, tmp_path / "out")] == ["photo", "photo.mask", "other"]


def test_what_systems_leave_in_folders_is_not_sent(tmp_path: Path) -> None:
    left = (".a.jpg", "._b.jpg", "__MACOSX/b.jpg", "@eaDir/b.jpg/SYNOPHOTO_THUMB_M.jpg", "c/.hidden/d.png", "Thumbs.db")
    for name in (*left, "b.jpg", "c/e.jfif", "@home.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_files([tmp_path], tmp_path / "out")
    assert [str(file.relative_to(tmp_path)) for file in found] == ["@home.png", "b.jpg", "c/e.jfif"]


def test_overlays_of_any_file_name_have_names_that_can_be_written_and_listed(tmp_path: Path) -> None:
    files = [tmp_path / name for name in (FILE, "é" * 125 + ".jpg", "é" * 124 + "a.png", "...png", "a\\b.tif")]
    for file in files:
        file.touch()
    overlays = [task.overlay for task in plan(find_files(files, tmp_path / "out"), {}, tmp_path / "out")]
    assert len(set(overlays)) == 5
    for overlay in overlays:
        write_whole(tmp_path / "out" / overlay, b"")
        assert overlay.isprintable()
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(overlays)


def blank(labels: Sequence[str], classes: Sequence[str]) -> FileResult:
    """Describe an answer for one image, with every label at 0.5 and every class on a quarter of the image."""
    return FileResult(
        file="/images/a.png",
        stamp={"bytes": 9, "modified": 1.5},
        name="a",
        contours=[],
        overlay="a.overlay.png",
        mask="a.mask.png",
        raw_mask=None,
        spacing=None,
        components={},
        cleaning=None,
        dicom=[],
        notes=[],
        width=4,
        height=4,
        classes=dict.fromkeys(labels, 0.5),
        areas={name: {"pixels": 4, "percent": 25.0} for name in classes[1:]},
        timings={"request_ms": 1.0, "total_ms": 2.0},
        request_id="1",
    )


def test_names_stand_in_the_table_and_in_the_result_as_they_are(tmp_path: Path) -> None:
    contract = Contract(preprocessing=Preprocessing(image_size=64), seg_classes=CLASSES, labels=LABELS)
    result = replace(blank(LABELS, CLASSES), file=f"/images/{FILE}")
    text = io.StringIO()
    Console(file=text, width=9000).print(table(contract, [result]))
    for name in NAMES:
        assert f" {name} " in text.getvalue()
        assert f" ■ {name} area " in text.getvalue()
    assert r"/images/[red] <b> \n\udcff.png" in text.getvalue()
    # Folded and not cut where a terminal is narrow.
    narrow = io.StringIO()
    Console(file=narrow, width=200).print(table(contract, [result]))
    assert "…" not in narrow.getvalue()
    (tmp_path / result.overlay).touch()
    (tmp_path / result.mask).touch()
    write_result(tmp_path, contract, Wanted(), [result])
    assert read_results(tmp_path, Wanted()) == {result.file: result}
    assert set(json.loads((tmp_path / RESULT_FILE).read_text())["colours"]) == set(CLASSES[1:])


def test_a_sign_says_whether_a_label_is_likely() -> None:
    pairs = Thresholds(sensitive=(0.2, 0.3, 0.4), specific=(0.6, 0.7, 0.8), rate=0.95)
    contract = Contract(
        preprocessing=Preprocessing(image_size=64),
        seg_classes=("background", "a"),
        labels=("x", "y", "z"),
        thresholds=pairs,
    )
    text = io.StringIO()
    result = replace(blank(("x", "y", "z"), ("background", "a")), classes={"x": 0.6, "y": 0.6, "z": 0.3})
    Console(file=text, width=200).print(table(contract, [result]))
    assert re.search(r"0\.600 \+ .* 0\.600 \? .* 0\.300 - ", text.getvalue())
    assert "at a specificity and sensitivity of 95 % on validation images" in " ".join(text.getvalue().split())
    plain = io.StringIO()
    Console(file=plain, width=200).print(table(replace(contract, thresholds=None), [result]))
    assert not re.search(r"[+?]|0\.300 -", plain.getvalue().replace("-+-", ""))


def test_names_stand_in_the_table_of_the_demo_as_they_are() -> None:
    result = Result(
        mask=np.zeros((4, 4), np.uint8),
        seg_classes=CLASSES,
        class_probabilities=dict.fromkeys(LABELS, 0.5),
        seg_probabilities=None,
        seconds=0.1,
        request_id="1",
    )
    text = io.StringIO()
    Console(file=text, width=9000).print(result_table({"grpc": result}))
    for name in NAMES:
        assert f" {name} " in text.getvalue()
        assert f" {name}, % of image " in text.getvalue()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "the server at a:1 has a model resformer without a contract"),
        ({"contract": {"string_value": "{}"}}, "the server at a:1 has a model resformer of a damaged contract: the "),
    ],
)
def test_a_server_of_something_else_is_one_line(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ServerFault, match=f"^{message}.*$"):
        read_contract({"config": {"parameters": parameters}}, "a:1")


def test_client_needs_neither_torch_nor_dali() -> None:
    # In a process of its own: this one has long loaded everything.
    code = (
        "import sys; from deploy.client import *; import deploy.client.__main__, tritonclient.grpc, tritonclient.http; "
        "print(*sys.modules)"
    )
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "nvidia", "openvino", "onnx", "onnxruntime", "model", "kernels", "deploy.server"}
    # The contract holds a `Preprocessing`, and the overlay is drawn by `data_pipeline`, whose other modules need DALI.
    heavy |= {f"data_pipeline.{name}" for name in ("loader", "serving", "sources", "graph", "scan", "prepare")}
    # What the server shares with the build, beyond the contract.
    heavy |= {f"deploy.{name}" for name in ("repository", "building", "engines", "report", "export", "verify")}
    assert heavy.isdisjoint(modules)


def test_resume_does_only_what_is_missing(
    server: Server, make_image: Callable[..., bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(make_image(seed=number))
    arguments = [str(folder), "--url", server.grpc_url, "--output", str(output)]
    assert main(arguments) == 0
    first = json.loads((output / "result.json").read_text())
    # A result without its overlay counts as missing.
    (output / "1.overlay.png").unlink()
    assert main([*arguments, "--resume"]) == 0
    second = json.loads((output / "result.json").read_text())
    ids = [{Path(image["file"]).name: image["request_id"] for image in run["images"]} for run in (first, second)]
    assert {name for name, request in ids[1].items() if ids[0][name] != request} == {"1.png"}
    assert sorted(ids[1]) == sorted(ids[0])
    # Another image in the place of one that was answered, and files of other folders, under the same names.
    (folder / "2.png").write_bytes(make_image((300, 200), seed=9))
    other = tmp_path / "other" / "0.png"
    other.parent.mkdir()
    other.write_bytes(make_image((120, 90), seed=8))
    (output / ".x.overlay.png.999999999.tmp").touch()
    before = (output / "0.mask.png").read_bytes()
    assert main([str(folder / "2.png"), str(other), *arguments[1:], "--resume", "--jobs", "1"]) == 0
    third = {image["file"]: image for image in json.loads((output / "result.json").read_text())["images"]}
    assert set(third) == {str(folder / f"{number}.png") for number in range(3)} | {str(other)}
    assert Image.open(output / third[str(folder / "2.png")]["mask"]).size == (300, 200)
    assert Image.open(output / third[str(other)]["mask"]).size == (120, 90)
    assert (output / "0.mask.png").read_bytes() == before
    assert not list(output.glob(".*.tmp"))
    (output / "result.json").write_text("not ours")
    assert main([*arguments, "--resume"]) == 1
    assert "not a result of this command" in capsys.readouterr().err


def test_full_disk_is_one_line_and_leaves_no_half_file(
    server: Server, make_image: Callable[..., bytes], tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(make_image((300, 200)))
    command = [sys.executable, "-m", "deploy.client", str(tmp_path / "a.png"), "--url", server.grpc_url]
    # The system's limit on a file's size, 8 blocks of 512 bytes, stands for a disk with 4 kB left.
    limited = ["sh", "-c", 'trap "" XFSZ; ulimit -f 8; exec "$@"', "sh", *command, "--output", str(tmp_path / "out")]
    run = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert run.stderr.startswith("error: ")
    assert [file.name for file in (tmp_path / "out").iterdir()] in ([], ["result.json"])
