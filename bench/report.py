"""Turn a benchmark's JSON into the tables of bench/README.md and a plot.

python -m bench.report build/bench.json [--update bench/README.md] [--plot bench/engines.png]
"""

import json
import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bench import BASELINE
from data_pipeline.command_line import new_parser
from data_pipeline.files import write_whole

Results = dict[str, Any]


def path_table(results: Results) -> str | None:
    """Return a Markdown table of the path's stages, or None where they were not measured."""
    stages = [bench for bench in results["benchmarks"] if "stage" in bench["extra_info"]]
    if not stages:
        return None
    rows = [
        f"| {bench['extra_info']['stage']} | {_ms(bench, 'median')} | {_ms(bench, 'q1')} to {_ms(bench, 'q3')} |"
        for bench in stages
    ]
    first = stages[0]["extra_info"]
    subject = f"`{first['checkpoint']}`, one image of {first['size'] / 1000:.0f} kB, {first['threads']} threads"
    return "\n".join(
        [_machine(results, subject), "", "| stage | median, ms | middle half, ms |", "| --- | ---: | ---: |", *rows]
    )


def engines_table(results: Results) -> str | None:
    """Return a Markdown table of the engines at each batch size, or None where they were not measured."""
    runs = [bench["extra_info"] for bench in results["benchmarks"] if "engines" in bench["extra_info"]]
    if not runs:
        return None
    rows = [_engine_row(run, name, figures) for run in runs for name, figures in run["engines"].items()]
    gemm = ", ".join(f"{precision} {rate:.0f}" for precision, rate in runs[0]["gemm_gmacs"].items())
    subject = (
        f"`{runs[0]['checkpoint']}`, {runs[0]['threads']} threads, engines in alternating rounds, "
        f"one large matrix product in GMAC/s: {gemm}"
    )
    header = (
        "| batch | engine | p50, ms | p90 | p99 | of ONNX Runtime, plain | images/s | peak, MB | of the GEMM rate |"
    )
    return "\n".join([_machine(results, subject), "", header, "| ---: | --- |" + " ---: |" * 7, *rows])


def _engine_row(run: dict[str, Any], name: str, figures: dict[str, Any]) -> str:
    baseline = run["engines"][BASELINE]["p50_ms"]
    times = " | ".join(f"{figures[f'p{p}_ms']:.1f}" for p in (50, 90, 99))
    ratio = f"{figures['p50_ms'] / baseline:.2f}x"
    share = f"{figures['share_of_gemm_rate']:.0%}"
    rate = f"{figures['images_per_second']:.1f}"
    # torch.compile's process includes its compiler, whose memory says nothing about the engine.
    memory = f"{figures['peak_mb']:.0f}" if figures["peak_mb"] else "not taken"
    return f"| {run['batch']} | {name} | {times} | {ratio} | {rate} | {memory} | {share} |"


def rewrites_table(results: Results) -> str | None:
    """Return a Markdown table of the exact rewrites, one more in each row, or None where they were not measured."""
    runs = [bench["extra_info"] for bench in results["benchmarks"] if "rewrites" in bench["extra_info"]]
    if not runs:
        return None
    (run,) = runs
    first = next(iter(run["rewrites"].values()))
    rows = [
        f"| {name} | "
        + " | ".join(f"{time:.1f} ({time / first[runtime]:.2f}x)" for runtime, time in times.items())
        + " |"
        for name, times in run["rewrites"].items()
    ]
    subject = f"`{run['checkpoint']}`, fp32, one image, {run['threads']} threads, medians of alternating rounds"
    header = f"| graph | {', ms | '.join(first)}, ms |"
    return "\n".join([_machine(results, subject), "", header, "| --- |" + " ---: |" * len(first), *rows])


def _machine(results: Results, subject: str) -> str:
    info = results["machine_info"]["resformer"]
    return (
        f"{subject}, on {info['processor']} ({info['cores']} cores), Python {info['python']}, "
        f"{results['datetime'][:10]}. Measured. Absolute times of a shared machine are noisy."
    )


def _ms(bench: dict[str, Any], statistic: str) -> str:
    return f"{1000 * bench['stats'][statistic]:.1f}"


def plot(results: Results, path: Path) -> None:
    """Draw a bar for every engine's median, and how the cost grows with batch and image size."""
    extras = [bench["extra_info"] | {"stats": bench["stats"]} for bench in results["benchmarks"]]
    # A Figure of its own, not pyplot's: no window system is asked for, and nothing is left open.
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    bars, batches, sizes = figure.subplots(1, 3, width_ratios=[2, 1, 1])
    for run in (extra for extra in extras if extra.get("batch") == 1 and "engines" in extra):
        # Bars are drawn from below, tables read from above.
        names = list(run["engines"])[::-1]
        colours = ["tab:blue" if name.startswith("ours") else "silver" for name in names]
        bars.barh(names, [run["engines"][name]["p50_ms"] for name in names], color=colours)
        bars.set(xlabel="one image, ms (median)", title=run["checkpoint"])
    for run in (extra for extra in extras if "growth_with_batch" in extra):
        # JSON has turned the counts into text.
        counts = {int(count): time for count, time in run["growth_with_batch"].items()}
        batches.plot(list(counts), list(counts.values()), "o-")
        batches.set(xlabel="batch", ylabel="ms", ylim=0, title=run["engine"])
    # "size" alone will not do: the path's benchmarks use that name for the bytes of the image file.
    grown = sorted((extra["size"], 1000 * extra["stats"]["median"]) for extra in extras if "exported_mb" in extra)
    if grown:
        sizes.loglog(*zip(*grown, strict=True), "o-")
        sides = [side for side, _ in grown]
        sizes.set_xticks(sides, [str(side) for side in sides])
        # Otherwise the logarithmic axis labels its own ticks among these.
        sizes.minorticks_off()
    sizes.set(xlabel="image side, px", ylabel="ms", title="tiny, openvino fp32")
    figure.savefig(path, dpi=120)


def update(page: str, name: str, text: str | None) -> str:
    """Return `page` with `text` between the comments `name` and `/name`, unchanged where there is no text."""
    if text is None:
        return page
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    # A function as the replacement, because backslashes in a text would be read as group references.
    return re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{text}\n{end}", page, flags=re.DOTALL)


def main(arguments: list[str] | None = None) -> None:
    """Print the tables or write them between the markers of a Markdown file, and draw the plot on request."""
    parser = new_parser("bench.report", __doc__)
    parser.add_argument("results", type=Path, help="what --benchmark-json wrote")
    parser.add_argument("--update", type=Path, metavar="FILE", help="Markdown file that has the tables' markers")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="plot of test_engines.py's results")
    options = parser.parse_args(arguments)
    results = json.loads(options.results.read_text())
    tables = {
        "benchmark": path_table(results),
        "engines": engines_table(results),
        "rewrites": rewrites_table(results),
    }
    if options.plot:
        plot(results, options.plot)
    if options.update is None:
        print("\n\n".join(text for text in tables.values() if text))
        return
    page = options.update.read_text()
    for name, text in tables.items():
        page = update(page, name, text)
    write_whole(options.update, page)


if __name__ == "__main__":
    main()
