"""Turn a benchmark's JSON into the README's table: `python -m bench.report build/bench.json [--update README.md]`."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- benchmark -->", "<!-- /benchmark -->"


def table(results: dict[str, Any]) -> str:
    """A Markdown table of the path's stages with the machine, the threads and the versions named above it."""
    stages = [bench for bench in results["benchmarks"] if "stage" in bench["extra_info"]]
    info, first = results["machine_info"]["resformer"], stages[0]["extra_info"]
    rows = [
        f"| {bench['extra_info']['stage']} | {_ms(bench, 'median')} | {_ms(bench, 'q1')} to {_ms(bench, 'q3')} |"
        for bench in stages
    ]
    return "\n".join(
        [
            f"`{first['checkpoint']}`, one image of {first['size'] / 1000:.0f} kB, {first['threads']} threads, on "
            f"{info['processor']} ({info['cores']} cores), Python {info['python']}, {results['datetime'][:10]}. "
            "Measured; absolute times of a shared machine are noisy.",
            "",
            "| stage | median, ms | middle half, ms |",
            "| --- | ---: | ---: |",
            *rows,
        ]
    )


def _ms(bench: dict[str, Any], statistic: str) -> str:
    return f"{1000 * bench['stats'][statistic]:.1f}"


def main(arguments: list[str] | None = None) -> None:
    """Print the table, or write it between the markers of a Markdown file."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("results", type=Path, help="what --benchmark-json wrote")
    parser.add_argument("--update", type=Path, metavar="FILE", help="file with the table's markers")
    options = parser.parse_args(arguments)
    text = table(json.loads(options.results.read_text()))
    if options.update is None:
        print(text)
        return
    page = options.update.read_text()
    block = f"{BEGIN}\n{text}\n{END}"
    options.update.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: block, page, flags=re.DOTALL))


if __name__ == "__main__":
    main()
