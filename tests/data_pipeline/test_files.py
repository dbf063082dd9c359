"""Test that files and folders are whole or absent, also when several processes fill the same one."""

import errno
import resource
import signal
from pathlib import Path
from unittest.mock import Mock

import pytest

from data_pipeline.files import link_or_copy, locked, require_writable, whole_folder, write_whole


def test_the_folder_of_the_faster_process_stays(tmp_path: Path) -> None:
    target = tmp_path / "data"
    with whole_folder(target) as slow:
        (slow / "by").write_text("slow")
        with whole_folder(target) as fast:
            (fast / "by").write_text("fast")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert (target / "by").read_text() == "fast"
    (tmp_path / "plain").mkdir()
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode  # so that other users can read it


def test_a_name_that_cannot_be_taken_is_an_error(tmp_path: Path) -> None:
    target = tmp_path / "data"
    target.write_text("a file")
    with pytest.raises(OSError), whole_folder(target) as folder:
        (folder / "by").write_text("me")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_text_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_whole(tmp_path / "taken", "text")
    write_whole(tmp_path / "new" / "free", "text")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["free", "new", "taken"]


def test_the_error_of_a_write_that_fails_names_the_file(tmp_path: Path) -> None:
    # A limit on the size of files, since a disk cannot be filled here: both come from the call that writes.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError) as caught:
            write_whole(tmp_path / "large", bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "large"))
    assert not list(tmp_path.iterdir())


def test_a_folder_is_known_to_be_writable_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_writable(tmp_path / "new" / "inner")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("kept")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotADirectoryError, match=str(tmp_path / "file")):
            require_writable(place)
    monkeypatch.setattr(
        "os.mkdir", Mock(side_effect=PermissionError(errno.EACCES, "Permission denied", "a temporary name"))
    )
    with pytest.raises(PermissionError) as caught:
        require_writable(tmp_path / "new")
    assert caught.value.filename == str(tmp_path)


@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_says_that_nobody_is_kept_out(
    reason: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked(tmp_path) as is_alone:
        assert is_alone
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(reason, "no locks")))
    with locked(tmp_path) as is_alone:
        assert not is_alone


def test_a_file_system_without_hard_links_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").write_text("content")
    link_or_copy(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two").samefile(tmp_path / "one")
    with pytest.raises(FileExistsError):
        link_or_copy(tmp_path / "one", tmp_path / "two")
    monkeypatch.setattr("os.link", Mock(side_effect=PermissionError(errno.EPERM, "Operation not permitted")))
    link_or_copy(tmp_path / "one", tmp_path / "three")
    assert (tmp_path / "three").read_text() == "content"
    with pytest.raises(FileNotFoundError):
        link_or_copy(tmp_path / "none", tmp_path / "four")
