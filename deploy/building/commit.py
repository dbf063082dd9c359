"""Put a finished build into its output folder as one step: all of it, or after a crash what is left of it.

A build is staged whole inside the output folder, so that nothing is written after the first file has moved and a full
disk cannot interrupt it. One rename makes the staged folder the next state. Moving its files into place comes after
that, and the next build goes on with it where the process was killed.
"""

import shutil
from pathlib import Path

from data_pipeline.files import replace_folder
from deploy.building.plan import EngineSpec
from deploy.content import possible_files
from deploy.contract import NETWORK_MODEL, PIPELINE_MODEL, PREPROCESSING_MODEL
from deploy.engines import ONNX, PRECISIONS, TARGETS
from deploy.errors import BuildError
from deploy.files import DIRECTORY, GPU_DIRECTORY, TUNING
from deploy.report import PAGE, REPORT, read_report

OWN = (PIPELINE_MODEL, NETWORK_MODEL, PREPROCESSING_MODEL, TUNING)  # what a repository of ours holds
STAGED = ".publishing"
REPLACED = ".replaced-"  # begins the name of an older folder that has made room, inside the staged one


def check_room(output: Path) -> None:
    """Raise BuildError where something that no build has left stands where a build puts its files.

    `model_repository` is what Triton's users call theirs: it would be replaced, and their models would be gone.
    """
    folders, names = (DIRECTORY, GPU_DIRECTORY), sorted({*_names_of_builds(), REPORT, PAGE})
    for name in names:
        path, is_folder = output / name, name in folders
        if path.exists() and path.is_dir() != is_folder:
            kind = "folder" if is_folder else "file"
            raise BuildError(f"{path} must be a {kind} that a build may replace: move it, or give another output")
    repositories = [output / name for name in folders if (output / name).is_dir()]
    # What begins with a dot, desktops and network drives leave behind.
    others = [
        path for folder in repositories for path in folder.iterdir() if path.name not in OWN and path.name[0] != "."
    ]
    if others:
        raise BuildError(
            f"{others[0]} is of no build, and a build replaces {others[0].parent}: move it, or give another output"
        )
    # A damaged or deleted report is repaired, so other traces of a build count too.
    if read_report(output) or (output / STAGED).exists() or any((output / DIRECTORY / name).is_dir() for name in OWN):
        return
    for name in names:
        path = output / name
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise BuildError(
                f"{path} is there without a build's report, and a build may replace it: move it, or give another output"
            )


def commit(staged: Path, output: Path) -> None:
    """Make the files of `staged`, a folder in `output` that holds their report, those of `output`."""
    staged.rename(output / STAGED)
    finish(output)


def finish(output: Path) -> None:
    """Go on with the `commit` that was interrupted, if there is one."""
    staged = output / STAGED
    if not staged.is_dir():
        return
    names = [path.name for path in staged.iterdir() if not path.name.startswith(REPLACED)]
    # The report last: until then the older one stands, whose hashes do not match what has already moved.
    for name in sorted(names, key=lambda name: (name == REPORT, name)):
        fresh, current = staged / name, output / name
        if fresh.is_dir():
            replace_folder(fresh, current, staged / f"{REPLACED}{name}")
        else:
            fresh.replace(current)
    _drop_outdated(output)
    shutil.rmtree(staged)


def _drop_outdated(output: Path) -> None:
    """Delete engines and repositories of earlier builds that are not in the report."""
    report = read_report(output)
    assert report is not None, "the report has just been put in place"
    kept = {Path(name).parts[0] for name in report.files}
    # Only names that a build gives: the folder may hold files of the user's.
    outdated = [path for path in output.iterdir() if path.name in _names_of_builds() - kept]
    for path in outdated:
        # A link is one that a user has set to another disk, and what it leads to is theirs.
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _names_of_builds() -> set[str]:
    engines = [EngineSpec(target, precision).file for target in (ONNX, *TARGETS) for precision in PRECISIONS]
    return {DIRECTORY, GPU_DIRECTORY, *(file.name for engine in engines for file in possible_files(Path(engine)))}
