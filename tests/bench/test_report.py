"""Check the tables and the plot that `bench.report` makes of a run's JSON, and what it says of files that are none."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench import BASELINE, report

MACHINE = {"resformer": {"processor": "Some CPU", "features": "avx2 fma", "cores": "2", "python": "3.11.7"}}


def benchmark(contender: str, seconds: list[float], group: str = "group", **extra: object) -> dict[str, Any]:
    """Make what pytest-benchmark writes of one benchmark, as far as the report reads it."""
    ordered = sorted(seconds)
    stats = {"median": ordered[len(ordered) // 2], "min": ordered[0], "q1": ordered[0], "q3": ordered[-1]}
    return {
        "name": f"test[{contender}]",
        "group": group,
        "params": {"contender": contender},
        "extra_info": extra,
        "stats": {**stats, "rounds": len(seconds)},
    }


def engine(name: str, seconds: list[float], batch: int = 1, **extra: object) -> dict[str, Any]:
    """Make the benchmark of an engine of two giga multiply-adds an image."""
    common = {"engine": name, "checkpoint": "tiny", "threads": 2, "batch": batch, "multiply_adds": batch * 2 * 10**9}
    errors = {"mask_differs": 0.0, "probabilities_differ": 1e-6}
    return benchmark(name, seconds, f"network, batch {batch}", **{**common, **errors, **extra})


def results(*benchmarks: dict[str, Any]) -> dict[str, Any]:
    """Make the JSON of a run."""
    return {"machine_info": MACHINE, "datetime": "2026-11-25T10:00:00+00:00", "benchmarks": list(benchmarks)}


def rows(table: str | None) -> list[list[str]]:
    """Split a Markdown table into its cells, without the lines above it and the rule."""
    assert table is not None
    header, _rule, *others = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (header, *others)]


def test_engines_are_compared_within_their_batch_and_with_the_matrix_product() -> None:
    run = results(
        engine("ours-openvino-fp32", [0.016, 0.02, 0.025], peak_mb=300.0, p90_ms=25.0, mask_differs=0.00125),
        engine(BASELINE, [0.04]),
        engine("ours-openvino-fp32", [0.06], batch=4),
        benchmark("fp32", [0.05, 0.01], precision="fp32", gemm_multiply_adds=10**9),
    )
    _, ours, plain, alone = rows(report.engines_table(run))
    # 2 GMAC in 20 ms are 100 GMAC/s, and the shortest product says 100 as well.
    assert ours == ["1", "ours-openvino-fp32", "3", "20.0", "16.0", "25.0", "0.50x", "50.0", "0.125%", "300", "100%"]
    assert plain == ["1", BASELINE, "1", "40.0", "40.0", "", "1.00x", "25.0", "0.000%", "", "50%"]
    # Batch 4 has no plain export to compare with.
    assert alone == ["4", "ours-openvino-fp32", "1", "60.0", "60.0", "", "", "66.7", "0.000%", "", "133%"]


def test_engines_without_a_matrix_product_have_no_share_of_it() -> None:
    (_, row) = rows(report.engines_table(results(engine("ours-openvino-fp32", [0.02]))))
    assert row[-1] == ""


def test_the_cost_of_serving_is_what_a_request_takes_more() -> None:
    common: dict[str, Any] = {"checkpoint": "tiny", "threads": 2, "image_bytes": 35_000}
    run = results(
        benchmark("preprocess", [0.003], stage="decode", **common),
        benchmark("in-process", [0.010], stage="in process", **common),
        benchmark("grpc", [0.0125], stage="served over gRPC", **common),
    )
    assert [(row[0], row[1], row[3]) for row in rows(report.path_table(run))[1:]] == [
        ("decode", "3.0", ""),
        ("in process", "10.0", ""),
        ("served over gRPC", "12.5", "+2.5"),
    ]


def test_runs_under_load_show_rates_and_latencies_and_are_no_stage_of_the_path() -> None:
    run = results(
        benchmark(
            "", [0.2, 0.224, 0.25], load="a worker a core, 8 callers", rate=35.31, p90_ms=250.0, checkpoint="tiny"
        )
    )
    assert rows(report.load_table(run))[1] == ["a worker a core, 8 callers", "3", "35.3", "224.0", "250.0", ""]
    assert report.path_table(run) is None
    assert report.engines_table(run) is None


def test_rewrites_are_compared_with_the_plain_graph_of_their_runtime() -> None:
    times = {("0-plain", "openvino"): 0.010, ("1-fuse", "openvino"): 0.009, ("1-fuse", "onnxruntime"): 0.02}
    run = results(
        *(
            benchmark(step, [seconds], step=step, runtime=runtime, checkpoint="tiny", threads=2)
            for (step, runtime), seconds in times.items()
        )
    )
    assert rows(report.rewrites_table(run)) == [
        ["graph", "openvino, ms", "onnxruntime, ms"],
        ["0-plain", "10.0 (1.00x)", ""],
        # Without the plain graph of ONNX Runtime there is nothing to compare with.
        ["1-fuse", "9.0 (0.90x)", ""],
    ]


def test_the_plot_has_a_panel_for_what_was_measured_and_no_other(tmp_path: Path) -> None:
    bars = [engine("ours-openvino-fp32", [0.02]), engine(BASELINE, [0.04])]
    grown = [
        benchmark(f"batch-{length}", [0.01 * length], "growth with batch, ours", grows_with="batch", length=length)
        for length in (1, 2)
    ]
    widths = []
    for benchmarks in (bars, grown, bars + grown):
        report.plot(results(*benchmarks), tmp_path / "plot.png")
        with Image.open(tmp_path / "plot.png") as image:
            widths.append(image.width)
    # The engines have two panels, their growth one.
    assert widths[1] < widths[0] < widths[2]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "other JSON"),
        ('{"benchmarks": []}', "other JSON"),
        ('{"machine_info": {}, "benchmarks": [{}]}', "other JSON"),
        (json.dumps(results()), "its list is empty"),
        # As an older version wrote it.
        (json.dumps(results(benchmark("", [0.2], stage="decode", size=3))), "this version of the benchmarks"),
        (json.dumps(results({"stats": {}})), "this version of the benchmarks"),
    ],
)
def test_a_file_of_no_results_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, rule: str
) -> None:
    file = tmp_path / "run.json"
    file.write_text(text)
    assert report.main([str(file)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert rule in output.err
    assert str(file) in output.err
    assert output.err.count("\n") == 1


def test_a_plot_of_nothing_and_a_missing_file_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, picture = tmp_path / "run.json", tmp_path / "plot.png"
    assert report.main([str(file)]) == 1
    file.write_text(json.dumps(results(benchmark("", [0.2], load="soak", rate=3.0, checkpoint="tiny"))))
    assert report.main([str(file), "--plot", str(picture)]) == 1
    missing, nothing = capsys.readouterr().err.splitlines()
    assert "No such file" in missing
    assert "--plot needs results of bench/test_engines.py" in nothing
    assert not picture.exists()


def test_tables_replace_those_between_their_markers(tmp_path: Path) -> None:
    file, page = tmp_path / "run.json", tmp_path / "page.md"
    file.write_text(json.dumps(results(engine("ours-openvino-fp32", [0.02]))))
    page.write_text("a\n<!-- engines -->\nold\n<!-- /engines -->\nb\n<!-- load -->\nkept\n<!-- /load -->\n")
    assert report.main([str(file), "--update", str(page)]) == 0
    text = page.read_text()
    assert "old" not in text
    assert "| 1 | ours-openvino-fp32 |" in text
    assert text.endswith("b\n<!-- load -->\nkept\n<!-- /load -->\n")


def test_a_page_without_a_place_for_a_table_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, page = tmp_path / "run.json", tmp_path / "page.md"
    file.write_text(json.dumps(results(engine("ours-openvino-fp32", [0.02]))))
    page.write_text("<!-- engines -->\n")
    assert report.main([str(file), "--update", str(page)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "<!-- /engines -->" in line
    assert page.read_text() == "<!-- engines -->\n"


def test_benchmarks_of_no_table_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps(results(benchmark("1024x768", [0.02]))))
    assert report.main([str(file)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "path, engines, rewrites, load" in line
