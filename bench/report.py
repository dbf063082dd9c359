"""Turn a run's JSON into the tables of bench/README.md and a plot.

python -m bench.report build/bench.json [--update bench/README.md] [--plot bench/engines.png]
python -m bench.report build/gpu/gpu.json [--update bench/README.md]
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bench import BASELINE
from bench.gpu import report as gpu
from bench.tables import ResultsError, markdown_table, updated
from data_pipeline.command_line import new_parser, run_command
from data_pipeline.files import write_whole

Results = dict[str, Any]
Benchmark = dict[str, Any]
COMMAND, GPU_COMMAND = "python -m pytest bench --benchmark-only --benchmark-json=FILE", "python -m bench.gpu"


def read_results(path: Path) -> Results:
    """Read what `--benchmark-json` or `python -m bench.gpu` wrote.

    Raises ResultsError where the file holds no benchmark of this project.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultsError(f"{path} must be a JSON file of `{COMMAND}`, it cannot be read: {error}") from error
    if isinstance(results, dict) and "steps" in results:
        return results
    if not isinstance(results, dict) or "resformer" not in results.get("machine_info", {}):
        raise ResultsError(f"{path} must be a JSON file of `{COMMAND}`, it holds other JSON")
    if not results["benchmarks"]:
        raise ResultsError(f"{path} must hold at least one benchmark, its list is empty: look at the run's failures")
    return results


def path_table(results: Results) -> str | None:
    """Return a Markdown table of the path's stages, or None where they were not measured."""
    stages = _with(results, "stage")
    if not stages:
        return None
    alone = next((bench for bench in stages if _contender(bench) == "in-process"), None)
    rows = [
        [
            bench["extra_info"]["stage"],
            _ms(bench, "median"),
            f"{_ms(bench, 'q1')} to {_ms(bench, 'q3')}",
            _added(bench, alone) if alone and _contender(bench).startswith(("grpc", "http")) else "",
        ]
        for bench in stages
    ]
    first = stages[0]["extra_info"]
    subject = (
        f"`{first['checkpoint']}`, one image of {first['image_bytes'] / 1000:.0f} kB, "
        f"{first['threads']} threads, medians of {stages[0]['stats']['rounds']} rounds in turns"
    )
    return _table(results, subject, ["stage", "median, ms", "middle half, ms", "more than in process, ms"], rows)


def _added(bench: Benchmark, base: Benchmark) -> str:
    return f"{1000 * (bench['stats']['median'] - base['stats']['median']):+.1f}"


def engines_table(results: Results) -> str | None:
    """Return a Markdown table of the engines at each batch size, or None where they were not measured."""
    engines = _with(results, "engine")
    if not engines:
        return None
    rates = gemm_rates(results)
    base = {
        bench["extra_info"]["batch"]: bench["stats"]["median"]
        for bench in engines
        if bench["extra_info"]["engine"] == BASELINE
    }
    first = engines[0]["extra_info"]
    subject = f"`{first['checkpoint']}`, {first['threads']} threads, rounds in turns"
    if rates:
        products = ", ".join(f"{precision} {rate / 1e9:.0f}" for precision, rate in rates.items())
        subject += f", one large matrix product in GMAC/s: {products}"
    header = ["batch", "engine", "rounds", "p50, ms", "shortest", "p90", f"of {BASELINE}", "images/s", "mask differs"]
    rows = [_engine_row(bench, base, rates) for bench in engines]
    return _table(results, subject, [*header, "peak, MB", "of the GEMM rate"], rows, text=2)


def _engine_row(bench: Benchmark, base: dict[int, float], rates: dict[str, float]) -> list[str]:
    extra, median = bench["extra_info"], bench["stats"]["median"]
    batch, precision = extra["batch"], extra["engine"].rpartition("-")[2]
    return [
        str(batch),
        extra["engine"],
        str(bench["stats"]["rounds"]),
        _ms(bench, "median"),
        _ms(bench, "min"),
        _percentiles(bench)[0],
        f"{median / base[batch]:.2f}x" if batch in base else "",
        f"{batch / median:.1f}",
        f"{extra['mask_differs']:.3%}",
        # torch.compile's process includes its compiler, whose memory says nothing about the engine.
        f"{extra['peak_mb']:.0f}" if "peak_mb" in extra else "",
        f"{extra['multiply_adds'] / median / rates[precision]:.0%}" if precision in rates else "",
    ]


def gemm_rates(results: Results) -> dict[str, float]:
    """Return the multiply-adds a second of a large matrix product, by precision."""
    # The shortest time, not the median: whatever else the machine does only makes a call longer, and this is a bound.
    return {
        bench["extra_info"]["precision"]: bench["extra_info"]["gemm_multiply_adds"] / bench["stats"]["min"]
        for bench in _with(results, "gemm_multiply_adds")
    }


def rewrites_table(results: Results) -> str | None:
    """Return a Markdown table of the exact rewrites, one more in each row, or None where they were not measured."""
    runs = _with(results, "step")
    if not runs:
        return None
    medians = {
        (bench["extra_info"]["step"], bench["extra_info"]["runtime"]): bench["stats"]["median"] for bench in runs
    }
    steps, runtimes = (list(dict.fromkeys(key[place] for key in medians)) for place in (0, 1))

    def cell(step: str, runtime: str) -> str:
        time, first = medians.get((step, runtime)), medians.get((steps[0], runtime))
        return f"{1000 * time:.1f} ({time / first:.2f}x)" if time and first else ""

    rows = [[step, *(cell(step, runtime) for runtime in runtimes)] for step in steps]
    extra = runs[0]["extra_info"]
    subject = f"`{extra['checkpoint']}`, fp32, one image, {extra['threads']} threads, medians of rounds in turns"
    return _table(results, subject, ["graph", *(f"{runtime}, ms" for runtime in runtimes)], rows)


def load_table(results: Results) -> str | None:
    """Return a Markdown table of the server under load, or None where it was not measured."""
    runs = _with(results, "load")
    rows = [
        [
            bench["extra_info"]["load"],
            str(bench["stats"]["rounds"]),
            f"{bench['extra_info']['rate']:.1f}",
            _ms(bench, "median"),
            *_percentiles(bench),
        ]
        for bench in runs
    ]
    header = ["load over gRPC", "requests", "answered a second", "p50, ms", "p90", "p99"]
    if not runs:
        return None
    subject = f"`{runs[0]['extra_info']['checkpoint']}`, latencies of single requests"
    return _table(results, subject, header, rows)


def _with(results: Results, figure: str) -> list[Benchmark]:
    """List the benchmarks that have a figure in their `extra_info`."""
    return [bench for bench in results["benchmarks"] if figure in bench["extra_info"]]


def _contender(bench: Benchmark) -> str:
    return str(bench["params"]["contender"])


def _ms(bench: Benchmark, statistic: str) -> str:
    return f"{1000 * bench['stats'][statistic]:.1f}"


def _percentiles(bench: Benchmark) -> list[str]:
    """Return p90 and p99, empty where there were too few rounds for them."""
    found = (bench["extra_info"].get(f"p{percent}_ms") for percent in (90, 99))
    return ["" if value is None else f"{value:.1f}" for value in found]


def _table(results: Results, subject: str, header: list[str], rows: list[list[str]], text: int = 1) -> str:
    """Return a Markdown table below a line that names the machine. Columns from number `text` on hold numbers."""
    info = results["machine_info"]["resformer"]
    machine = (
        f"{subject}, on {info['processor']} ({info['cores']} cores, {info['features']}), Python {info['python']}, "
        f"{results['datetime'][:10]}. Measured. Absolute times of a shared machine are noisy."
    )
    return f"{machine}\n\n{markdown_table(header, rows, text)}"


def plot(results: Results, path: Path) -> None:
    """Draw the engines' medians for one image, beside their error, and how the cost grows.

    Only what was measured has a panel.

    Raises ResultsError where none of it was.
    """
    single = [bench for bench in _with(results, "engine") if bench["extra_info"]["batch"] == 1]
    panels: list[Callable[[Axes], None]] = []
    if single:
        panels += [lambda axes: _bars(axes, single), lambda axes: _trade_off(axes, single)]
    grown = _with(results, "grows_with")
    for kind in dict.fromkeys(bench["extra_info"]["grows_with"] for bench in grown):
        of_kind = [bench for bench in grown if bench["extra_info"]["grows_with"] == kind]
        panels.append(lambda axes, benches=of_kind, kind=kind: _line(axes, benches, kind))  # type: ignore[misc]
    if not panels:
        raise ResultsError("--plot needs results of bench/test_engines.py, the file holds none of them")
    # A Figure of its own, not pyplot's: no window system is asked for, and nothing is left open.
    figure = Figure(figsize=(2 + 3.4 * len(panels), 4.4), layout="constrained")
    widths = [2 if single and number < 2 else 1 for number in range(len(panels))]
    for panel, axes in zip(panels, figure.subplots(1, len(panels), width_ratios=widths, squeeze=False)[0], strict=True):
        panel(axes)
    figure.savefig(path, dpi=120)


def _bars(axes: Axes, benches: Sequence[Benchmark]) -> None:
    # Bars are drawn from below, tables read from above.
    names = [bench["extra_info"]["engine"] for bench in reversed(benches)]
    medians = [1000 * bench["stats"]["median"] for bench in reversed(benches)]
    axes.barh(names, medians, color=["tab:blue" if name.startswith("ours") else "silver" for name in names])
    axes.set(xlabel="one image, ms (median)", title=benches[0]["extra_info"]["checkpoint"])


def _trade_off(axes: Axes, benches: Sequence[Benchmark]) -> None:
    for bench in benches:
        extra = bench["extra_info"]
        if not extra["probabilities_differ"]:
            continue  # the trained network itself, which a logarithm has no place for
        point = (1000 * bench["stats"]["median"], extra["probabilities_differ"])
        ours = extra["engine"].startswith("ours")
        axes.plot(*point, "o", color="tab:blue" if ours else "silver")
        # At an angle, ours up and peers down: engines of one precision have about one error and may be as fast.
        offset, angle, side = ((2, 4), 55, "bottom") if ours else ((2, -4), -55, "top")
        axes.annotate(extra["engine"], point, offset, textcoords="offset points", fontsize=7, rotation=angle, va=side)
    axes.set_yscale("log")
    axes.margins(x=0.35)
    axes.set(xlabel="one image, ms (median)", ylabel="mean difference of the pixels' probabilities", xlim=(0, None))
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom / 2000, top * 1000)  # room for the names


def _line(axes: Axes, benches: Sequence[Benchmark], kind: str) -> None:
    points = sorted((bench["extra_info"]["length"], 1000 * bench["stats"]["median"]) for bench in benches)
    axes.loglog(*zip(*points, strict=True), "o-")
    lengths = [length for length, _ in points]
    axes.set_xticks(lengths, [str(length) for length in lengths])
    # Otherwise the logarithmic axis labels its own ticks among these.
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel=kind, ylabel="ms (median)", title=benches[0]["group"].partition(", ")[2])


TABLES = {"path": path_table, "engines": engines_table, "rewrites": rewrites_table, "load": load_table}


def tables_of(results: Results) -> dict[str, str]:
    """Return the Markdown of what was measured, by the name of its place in bench/README.md."""
    if "steps" in results:
        return gpu.tables(results)
    return {name: text for name, table in TABLES.items() if (text := table(results))}


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = new_parser("bench.report", __doc__)
    parser.add_argument("results", type=Path, help="what --benchmark-json wrote, or gpu.json of bench.gpu")
    parser.add_argument("--update", type=Path, metavar="FILE", help="Markdown file that has the tables' markers")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="plot of test_engines.py's results")
    options = parser.parse_args(arguments)

    def report() -> None:
        results = read_results(options.results)
        try:
            tables = tables_of(results)
            if options.plot:
                plot(results, options.plot)
        except (KeyError, TypeError) as error:
            rule = f"{options.results} must come from this version of the benchmarks"
            command = GPU_COMMAND if "steps" in results else COMMAND
            raise ResultsError(f"{rule}, it lacks or changes {error}: run `{command}` again") from error
        if not tables and not options.plot:
            raise ResultsError(
                f"{options.results} must hold benchmarks of a table ({', '.join(TABLES)}), it holds others"
            )
        if options.update:
            write_whole(options.update, updated(options.update, tables))
        else:
            print("\n\n".join(tables.values()))

    return run_command(report, ResultsError, OSError)


if __name__ == "__main__":
    sys.exit(main())
