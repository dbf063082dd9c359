"""Test what `python -m bench.page` says of a folder that is no repository."""

from pathlib import Path

import pytest

from bench.page import main
from tests.helpers.browser import NEEDS_CHROMIUM


@NEEDS_CHROMIUM
def test_a_folder_that_is_no_repository_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--repository", str(tmp_path / "none")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no model repository at ")
