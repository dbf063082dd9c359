"""Write tables of Markdown, and put them into a page between their markers."""

from collections.abc import Mapping, Sequence
from pathlib import Path


class ResultsError(ValueError):
    """Say what is wrong with a file of results, or with the page they go to, in one line."""


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], text: int = 1) -> str:
    """Return a Markdown table whose columns from number `text` on hold numbers."""
    rule = ["---"] * text + ["---:"] * (len(header) - text)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def updated(file: Path, tables: Mapping[str, str]) -> str:
    """Return the text of a page with each table between the comments of its name.

    Raises ResultsError where a table has no such place.
    """
    page = file.read_text(encoding="utf-8")
    for name, text in tables.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, _, rest = page.partition(begin)
        _old, found, after = rest.partition(end)
        if not found:
            raise ResultsError(f"{file} must have a line {begin} and below it a line {end}, it lacks them: add them")
        page = f"{before}{begin}\n{text}\n{end}{after}"
    return page
