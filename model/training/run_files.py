"""Write what a run leaves: the state to resume from, and the history of its epochs."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from data_pipeline.fields import require_keys, shown
from data_pipeline.files import drop_unfinished, locked, require_writable, whole_file, write_whole
from model.checkpoint import CheckpointError, write_tensors
from model.training import TrainingError
from model.training.learner import Learner
from model.training.processes import Processes

Row = dict[str, float]
CURVES = ("loss", "dice", "auc")
# What `save_state` is given beside the tensors.
PLACE: dict[str, type] = {"settings": dict, "loader": dict, "losses": list, "history": list, "best": dict}


@contextmanager
def alone_in(output: Path) -> Iterator[None]:
    """Keep other runs out of an output folder until the block ends, and remove what killed ones were writing to it.

    Raises TrainingError where another run is in it.
    """
    require_writable(output)
    made = [folder for folder in (output, *output.parents) if not folder.exists()]
    output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            is_alone = stack.enter_context(locked(output))
        except BlockingIOError:
            raise TrainingError(
                f"{output} is written to by a run that has not ended; wait for it, or give another --output"
            ) from None
        if is_alone:
            drop_unfinished(output)
        try:
            yield
        finally:
            # Where nothing came of the run, it leaves nothing.
            with suppress(OSError):
                for folder in made:
                    folder.rmdir()


@contextmanager
def all_alone_in(output: Path, processes: Processes) -> Iterator[None]:
    """Hold the folder for all processes of a run, as `alone_in` does in the first one.

    Where that fails all of them raise, before one waits for another.
    """
    with ExitStack() as stack:
        failure: TrainingError | OSError | None = None
        if processes.rank == 0:
            try:
                stack.enter_context(alone_in(output))
            except (TrainingError, OSError) as error:
                failure = error
        if processes.any(failure is not None):
            raise failure or TrainingError(f"{output} cannot be used, as the first process says")
        yield


def save_state(path: Path, learner: Learner, place: dict[str, Any]) -> None:
    """Write the state whole or not at all, with all tensors in full precision.

    Args:
        path: file to write.
        learner: gives weights, average and moments.
        place: options, place in the data and scores so far, as JSON takes them.
    """
    # Contiguous, because safetensors refuses the channels-last kernels as they are.
    tensors = {f"model/{name}": tensor.contiguous() for name, tensor in learner.network.state_dict().items()}
    tensors |= {f"average/{name}": tensor.contiguous() for name, tensor in learner.average.state_dict().items()}
    # Of the loss what is learned. Its weights of the labels follow from the data.
    tensors |= {f"loss/{name}": tensor.detach() for name, tensor in learner.loss.named_parameters()}
    # The optimiser's groups are left out: they follow from the options.
    for index, moments in learner.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": tensor.contiguous() for name, tensor in moments.items()}
    write_tensors(path, tensors, {"place": json.dumps(place)})


def load_state(path: Path, learner: Learner) -> dict[str, Any]:
    """Restore all of `save_state` and return its `place`.

    Raises CheckpointError where the file does not fit this model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = json.loads(file.metadata()["place"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        place = {name: _of_kind(name, found[name]) for name in PLACE}
        require_keys(place["loader"], "loader", ("epoch", "position"))
        moments = _moments(_under(tensors, "optimizer/"))
        learner.network.load_state_dict(_under(tensors, "model/"))
        learner.average.load_state_dict(_under(tensors, "average/"))
        learner.loss.load_state_dict(_under(tensors, "loss/"), strict=False)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        # A checkpoint of ours has metadata without a place (KeyError), a foreign file none at all (TypeError), and a
        # changed one may hold anything (ValueError).
        raise CheckpointError(f"{path} is not a training state ({error}); omit --resume to start again") from None
    except RuntimeError:
        # From `load_state_dict`: names or shapes differ.
        raise CheckpointError(
            f"{path} was trained with another preset or data; use its settings or another --output"
        ) from None
    learner.optimizer.load_state_dict({**learner.optimizer.state_dict(), "state": moments})
    for parameter, values in learner.optimizer.state.items():
        for name, value in values.items():
            # The fused optimiser walks over memory, so that moments have to lie as the channels-last kernels do.
            if value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)
    return place


def _of_kind(name: str, value: Any) -> Any:
    if not isinstance(value, PLACE[name]):
        raise ValueError(f"{name} must be of type {PLACE[name].__name__}, got {shown(value)}")
    return value


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _moments(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split("/")
        moments.setdefault(int(index), {})[name] = tensor
    return moments


def write_history(rows: list[Row], output: Path) -> None:
    """Write history.csv, curves.png and TensorBoard's events.

    Args:
        rows: `epoch`, `loss` and the validation scores of each epoch so far.
        output: folder to write to.
    """
    # A score that an epoch leaves undefined is missing from its row, so that no single row has all the columns.
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(output / "history.csv", text.getvalue())
    _draw_curves(rows, output / "curves.png")
    # Event files are only ever added: those of earlier epochs are there, also when the run was resumed.
    with SummaryWriter(str(output / "tensorboard")) as events:
        for name in columns[1:]:
            if name in rows[-1]:
                events.add_scalar(name, rows[-1][name], int(rows[-1]["epoch"]))


def _draw_curves(rows: list[Row], path: Path) -> None:
    # `Figure` and not pyplot, which would keep every figure alive and may want a display.
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    loss, scores = figure.subplots(1, 2)
    for name in CURVES:
        points = [(row["epoch"], row[name]) for row in rows if name in row]
        if points:
            (loss if name == "loss" else scores).plot(*zip(*points, strict=True), marker=".", label=name)
    loss.set(title="training loss", xlabel="epoch")
    scores.set(title="validation", xlabel="epoch", ylim=(0, 1))
    # A score that no epoch could have is not drawn.
    if scores.lines:
        scores.legend()
    for axes in (loss, scores):
        # Of a few epochs matplotlib would mark halves.
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
