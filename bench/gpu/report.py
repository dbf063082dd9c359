"""Show the results: as the tables of bench/README.md, and as a page with every row.

With the standard library alone, because neither jinja2 nor matplotlib need be there. The style is that of the report of
`deploy.build_engine`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from bench import ROOT
from bench.tables import markdown_table

PAGE, MARKDOWN = "gpu.html", "gpu.md"
STYLE = ROOT / "deploy" / "report" / "style.css"
NOT_YET = "Not yet measured."
# By the rows' table: what it compares, and the microseconds of its unit.
TITLES = {
    "attention": ("Windowed attention, forward", "µs", 1),
    "attention-trained": ("Windowed attention, forward and backward", "µs", 1),
    "dilated": ("Dilated fusion", "µs", 1),
    "network": ("The whole network", "ms", 1000),
    "training": ("Training steps", "ms", 1000),
    "decoding": ("Decoding with DALI", "ms", 1000),
    "serving": ("Behind Triton Inference Server", "ms", 1000),
}
TESTS = "tests"

Results = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]


def tables(results: Results) -> dict[str, str]:
    """Return the Markdown of every table by the name of its place in bench/README.md."""
    return {f"gpu-{name}": _table(results, name) for name in TITLES}


def markdown(results: Results) -> str:
    """Return all tables under their titles, with the steps above them."""
    steps = [[step["name"], step["state"], f"{step['seconds']:.0f}", step["reason"]] for step in results["steps"]]
    parts = [f"# {_name(results)}", markdown_table(["step", "state", "s", "why"], steps, text=2)]
    parts += [f"## {title}\n\n{_table(results, name)}" for name, (title, _, _) in TITLES.items()]
    return "\n\n".join(parts) + "\n"


def faults(results: Results) -> list[str]:
    """List what is broken: steps that did not end well, failed tests, wrong results, and ours where it does not run.

    A peer that refuses a case, or that the step's limit cut off, is none of them.
    """
    ended = [
        f"{step['name']}: {step['state']}: {step['reason']}"
        for step in results["steps"]
        if step["state"] == "failed" or (step["state"] == "timed out" and not _is_peers(step["rows"]))
    ]
    broken = [
        f"{row['table']}, {row['case']}: {row['contender']} is {row['state']}: {row['reason']}"
        for row in _rows(results)
        if row["state"] == "wrong" or (row["state"] == "failed" and _is_ours(row))
    ]
    return ended + broken


def _is_ours(row: Mapping[str, Any]) -> bool:
    """Tell whether a row is about our code, whether by itself, compiled or within TensorRT's engines."""
    return row["table"] == TESTS or re.search(r"\bours?\b", row["contender"]) is not None


def _is_peers(rows: Rows) -> bool:
    """Tell whether a step ended while a peer was at work, which may compile for longer than anyone planned."""
    return bool(rows) and rows[-1]["state"] == "cut off" and not _is_ours(rows[-1])


def _table(results: Results, name: str) -> str:
    rows = [row for row in _rows(results) if row["table"] == name]
    if not any(row["state"] == "measured" for row in rows):
        return NOT_YET
    _, unit, scale = TITLES[name]
    cases, contenders = (list(dict.fromkeys(row[key] for row in rows)) for key in ("case", "contender"))
    cells = {(row["case"], row["contender"]): _cell(row, scale) for row in rows}
    body = [[case, *(cells.get((case, contender), "") for contender in contenders)] for case in cases]
    header = [f"medians in {unit}", *contenders]
    return f"{_name(results)}. Measured.\n\n{markdown_table(header, body)}"


def _cell(row: Mapping[str, Any], scale: float) -> str:
    # What was left out has nothing to tell. The page has the reasons of the others.
    if row["state"] == "measured":
        return _number(row["median_us"] / scale)
    return "" if row["state"] == "left out" else str(row["state"])


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _name(results: Results) -> str:
    """Name the GPU, its clock in the run, the libraries, the day and the commit."""
    machine = results["machine"]
    clocks = [row["clocks"]["clocks.sm"] for row in _rows(results) if "clocks.sm" in row["clocks"]]
    clock = f" at {min(clocks):.0f} to {max(clocks):.0f} MHz" if clocks else ""
    versions = [f"{name} {machine['versions'][name]}" for name in ("torch", "triton") if name in machine["versions"]]
    parts = [f"{machine['about'].get('GPU', 'no GPU')}{clock}", *versions, results["started"][:10]]
    return ", ".join([*parts, f"commit {results['commit'][:12]}"])


def _rows(results: Results) -> list[Mapping[str, Any]]:
    return [row for step in results["steps"] for row in step["rows"]]


def page(results: Results) -> str:
    """Return one self-contained page: the machine, the steps, and every row of every table."""
    machine = results["machine"]
    about = [f"{key} {value}" for key, value in (*machine["about"].items(), *machine["versions"].items())]
    steps = [
        [step["name"], step["title"], step["state"], f"{step['seconds']:.0f} of {step['limit']:.0f} s", step["reason"]]
        for step in results["steps"]
    ]
    parts = [
        f"<h1>{escape(_name(results))}</h1>",
        f'<p class="note">{escape(", ".join(about))}.</p>',
        '<p class="note">Medians, with the 10 % and 90 % quantiles of the rounds. Errors are root mean squares against '
        "float64, relative to that of the exact result, and as multiples of eager PyTorch's.</p>",
        "<h2>Steps</h2>",
        html_table(["step", "what", "state", "time", "why"], steps, words=3),
    ]
    for name, (title, unit, scale) in {**TITLES, TESTS: ("Tests", "ms", 1000)}.items():
        if rows := [row for row in _rows(results) if row["table"] == name]:
            header = ["case", "contender", f"median, {unit}", "10 to 90 %", "rounds", "error", "of eager's", "MHz", ""]
            parts += [f"<h2>{title}</h2>", html_table(header, [_page_row(row, scale) for row in rows], words=2)]
    style = STYLE.read_text(encoding="utf-8")
    head = f'<meta charset="utf-8"><title>{escape(_name(results))}</title><style>\n{style}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, words: int) -> str:
    """Return a table whose first columns hold words, and whose last one holds reasons."""
    kinds = [*["words"] * words, *["number"] * (len(header) - words - 1), "reason"]
    lines = [_html_row("th", kinds, header), *(_html_row("td", kinds, row) for row in rows)]
    return '<div class="scroll"><table>\n' + "\n".join(lines) + "\n</table></div>"


def _html_row(tag: str, kinds: Sequence[str], cells: Sequence[str]) -> str:
    told = (f'<{tag} class="{kind}">{escape(cell)}</{tag}>' for kind, cell in zip(kinds, cells, strict=True))
    return f"<tr>{''.join(told)}</tr>"


def _page_row(row: Mapping[str, Any], scale: float) -> list[str]:
    figures = "; ".join(f"{name} {_number(value)}" for name, value in row["figures"].items())
    reason = "; ".join(part for part in (row["reason"], figures) if part)
    if row["median_us"] is None:
        accuracy = ["" if row["of_eager"] is None else f"{row['of_eager']:.2f}x", ""]
        return [row["case"], row["contender"], row["state"], "", "", "", *accuracy, reason]
    return [
        row["case"],
        row["contender"],
        _number(row["median_us"] / scale),
        f"{_number(row['low_us'] / scale)} to {_number(row['high_us'] / scale)}",
        str(row["rounds"]),
        "" if row["error"] is None else f"{row['error']:.1e}",
        "" if row["of_eager"] is None else f"{row['of_eager']:.2f}x",
        f"{row['clocks'].get('clocks.sm', 0):.0f}" if row["clocks"] else "",
        reason,
    ]
