"""Hold every docstring to one voice: it begins with a verb, and its first sentence stands on a line of its own."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("kernels", "model", "data_pipeline", "deploy", "bench", "tests")
VERBS = frozenset((ROOT / "tests" / "helpers" / "verbs.txt").read_text().split())
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def documented(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the docstring of everything that a file documents."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, Documented) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", "module"), text


def faults(text: str) -> list[str]:
    """List what is wrong with a docstring's first sentence."""
    first, _, rest = text.partition("\n")
    checks = {
        "no verb first": first.split(" ")[0].rstrip(".,:").lower() not in VERBS,
        "a semicolon": ";" in first,
        "no full stop": not first.endswith("."),
        "no blank line after it": bool(rest) and not rest.startswith("\n"),
    }
    return [fault for fault, found in checks.items() if found]


@pytest.mark.parametrize("folder", FOLDERS)
def test_docstrings_begin_with_a_sentence_that_has_a_verb(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    wrong = [
        f"{file.relative_to(ROOT)}: {name}: {', '.join(found)}: {text.splitlines()[0]}"
        for file in files
        for name, text in documented(file)
        if (found := faults(text))
    ]
    assert not wrong, f"{len(wrong)} docstrings (verbs stand in tests/helpers/verbs.txt):\n" + "\n".join(wrong)
