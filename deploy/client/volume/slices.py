"""Keep the answers about a volume's slices until all are there, so that an interrupted run goes on from them."""

import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from data_pipeline.files import write_whole
from deploy.client.client import Result
from deploy.client.transport import Served

ENDING = "slices"
KEY = "key"


def drop_slices(output: Path) -> None:
    """Remove the slices that earlier runs have left in a folder for results."""
    for folder in output.glob(f".*.{ENDING}"):
        shutil.rmtree(folder)


class SliceStore:
    """Hold the answers about the slices of one volume in a hidden folder beside its results."""

    def __init__(self, output: Path, name: str, source: Path, stamp: Mapping[str, float], served: Served) -> None:
        """Open the folder, and empty it where it is of another file or network.

        Args:
            output: the folder for results.
            name: of the volume's results.
            source: the volume.
            stamp: its size and the time of its last change.
            served: what answers.
        """
        self._folder = output / f".{name}.{ENDING}"
        facts = f"{source.resolve()} {dict(stamp)} {served.contract.to_json()} {served.sha256}"
        key = hashlib.sha256(facts.encode(errors="surrogateescape")).hexdigest()
        stored = self._folder / KEY
        if not stored.is_file() or stored.read_text(encoding="utf-8") != key:
            shutil.rmtree(self._folder, ignore_errors=True)
            write_whole(stored, key)

    def save(self, index: int, result: Result) -> None:
        """Write the answer about one slice."""
        assert result.own_mask is not None
        facts = {
            "seg_classes": result.seg_classes,
            "class_probabilities": result.class_probabilities,
            "seconds": result.seconds,
            "request_id": result.request_id,
            "version": result.version,
            "sha256": result.sha256,
        }
        # In memory first: NumPy's writer cannot be closed on a disk that is full.
        file = io.BytesIO()
        np.savez_compressed(file, mask=result.own_mask, facts=np.array(json.dumps(facts)))
        write_whole(self._file(index), file.getvalue())

    def load(self, index: int) -> Result | None:
        """Return the answer about one slice, or None where there is none that can be read."""
        try:
            with np.load(self._file(index), allow_pickle=False) as file:
                mask, facts = file["mask"], json.loads(str(file["facts"]))
            return Result(
                mask=mask,
                own_mask=mask,
                seg_classes=tuple(facts["seg_classes"]),
                class_probabilities=facts["class_probabilities"],
                seg_probabilities=None,
                seconds=facts["seconds"],
                request_id=facts["request_id"],
                version=facts["version"],
                sha256=facts["sha256"],
            )
        except (OSError, ValueError, KeyError, TypeError, BadZipFile):
            return None

    def known(self, count: int) -> set[int]:
        """Return the numbers of the slices, below `count`, whose answers are there."""
        return {index for index in range(count) if self._file(index).is_file() and self.load(index) is not None}

    def remove(self) -> None:
        """Remove the folder, once the results of the whole volume are written."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _file(self, index: int) -> Path:
        return self._folder / f"{index:06d}.npz"


def join(store: SliceStore, known: set[int], answers: Iterator[Result], count: int) -> Iterator[Result]:
    """Yield the answers of all slices in order: those that are stored, and the others as they come, storing them."""
    for index in range(count):
        if index in known and (stored := store.load(index)) is not None:
            yield stored
        elif (answer := next(answers, None)) is not None:
            store.save(index, answer)
            yield answer
        else:
            return
