"""Write the card of a checkpoint: what it is, how it was made, and how well it does on images that it never saw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline import DataError
from data_pipeline.fields import as_line
from model.calibration import FEWEST, Calibration
from model.checkpoint import Checkpoint
from model.evaluation.sizes import SizeScore
from model.evaluation.summary import Estimate

NOTES = "## Notes"  # what follows it is a person's, and stays
# By name in `summarise`: the row's title.
MASK_ROWS = {
    "dice": "Dice",
    "jaccard": "Jaccard index",
    "pooled_dice": "Dice, pixels of all images",
    "hausdorff95": "95 % Hausdorff distance, pixels",
}
LABEL_ROWS = {
    "auc": "AUC",
    "accuracy": "accuracy at 0.5",
    "sensitivity": "sensitivity at 0.5",
    "specificity": "specificity at 0.5",
    "sensitivity_at_sensitive": "sensitivity at the sensitive threshold",
    "specificity_at_sensitive": "specificity at the sensitive threshold",
    "sensitivity_at_specific": "sensitivity at the specific threshold",
    "specificity_at_specific": "specificity at the specific threshold",
    "pooled_ece": "ECE over all labels, calibrated",
    "pooled_ece_uncalibrated": "ECE over all labels, as trained",
    "pooled_ece_by_chance": "ECE over all labels of perfect probabilities, by chance",
    "ece": "ECE of each label, calibrated",
    "ece_uncalibrated": "ECE of each label, as trained",
    "ece_by_chance": "ECE of each label of perfect probabilities, by chance",
    "brier": "Brier score, calibrated",
    "brier_uncalibrated": "Brier score, as trained",
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """Hold what a card says.

    name: of the checkpoint's file without its suffix.
    checkpoint: calibrated.
    megabytes: of its file.
    command: that wrote the card.
    unseen: whether the test images are known to be others than those of the training.
    images: number of test images.
    scores: of `summarise`, with masks at each image's own size.
    own_scores: of `TaskScores`, with masks at the network's size.
    sizes: of `summarise_sizes`.
    confusion: of `labels.confusion`.
    largest: of `labels.largest_probability`.
    pictures: what each file beside the card shows.
    """

    name: str
    checkpoint: Checkpoint
    megabytes: float
    command: str
    unseen: bool
    images: int
    scores: Mapping[str, Estimate]
    own_scores: Mapping[str, float]
    sizes: Sequence[SizeScore]
    confusion: Mapping[str, Mapping[str, int]]
    largest: Sequence[Sequence[int]] | None
    pictures: Mapping[str, str]

    def to_markdown(self, notes: str) -> str:
        """Return the card, with a person's notes at its end."""
        parts = [*self._head(), *self._scores(), *self._decisions(), *self._sizes(), *self._pictures()]
        return "\n\n".join([*parts, f"{NOTES}\n\n{notes.strip()}" if notes.strip() else NOTES]) + "\n"

    def _head(self) -> list[str]:
        info = self.checkpoint.info
        classes, labels = _listed(info.seg_classes[1:]), _listed(info.labels)
        count = sum(tensor.numel() for name, tensor in self.checkpoint.state.items() if not _is_statistic(name))
        calibration, training = info.calibration, info.training
        config = info.config
        rows = [
            ["file", f"`{self.name}.safetensors`, {count / 1e6:.1f} M parameters, {self.megabytes:.1f} MB"],
            ["network", f"{config.image_size} px, {config.design} design, dilations {_listed(config.dilations)}"],
            ["data", f"`{_text(info.data)}`"],
            ["made by", f"`{_text(str(training.get('command', 'not recorded')))}`"],
            ["chosen by", f"epoch {training.get('epoch', '?')}, the best on the validation split"],
            ["calibrated on", _calibrated_on(calibration)],
            ["this card by", f"`{_text(self.command)}`"],
        ]
        says = f"Takes an image, and gives a mask of {classes} and the probabilities of {labels}."
        return [f"# {_text(self.name)}", f"{says}\n**Not fit for any medical use.**", _table(["", ""], rows, "ll")]

    def _scores(self) -> list[str]:
        info = self.checkpoint.info
        text = (
            f"Scores on {self.images} images of the test split, {self._origin()}, with 95 % intervals over resampled "
            "images. Masks are compared at each image's own size. An ECE is to be compared with that by chance, and "
            "its interval lies too high, because a resample repeats images."
        )
        own = [self.own_scores.get(name) for name in ("dice", *(f"dice/{one}" for one in info.seg_classes[1:]))]
        masks = _score_rows(self.scores, MASK_ROWS, info.seg_classes[1:])
        size = info.config.image_size
        masks.append([f"Dice at the network's {size} px", *("" if one is None else f"{one:.3f}" for one in own)])
        labels = _score_rows(self.scores, LABEL_ROWS, info.labels)
        return [
            f"## Scores\n\n{text}",
            _table(["mask", "mean", *info.seg_classes[1:]], masks),
            _table(["labels", "mean", *info.labels], labels),
        ]

    def _origin(self) -> str:
        if self.unseen:
            return "which were used for neither training nor choosing"
        return "of which the checkpoint does not tell whether they were used for training"

    def _decisions(self) -> list[str]:
        info = self.checkpoint.info
        parts = []
        if info.calibration:
            pairs, temperatures = info.calibration.thresholds, info.calibration.temperatures
            columns = zip(info.labels, temperatures, pairs.sensitive, pairs.specific, strict=True)
            values = [[label, f"{t:.2f}", f"{low:.3f}", f"{high:.3f}"] for label, t, low, high in columns]
            rows = [
                row if fitted else [row[0], "1", "none", "none"]
                for row, fitted in zip(values, info.calibration.fitted, strict=True)
            ]
            text = (
                f"Each was chosen on the validation images: a sensitivity of {pairs.rate:g} at the sensitive threshold "
                "and a specificity of the same at the specific one. In between a label is uncertain. A label with "
                f"fewer than {FEWEST} validation images of either kind has none, and is as it was trained."
            )
            parts = [
                f"## Decisions\n\n{text}",
                _table(["label", "temperature", "sensitive threshold", "specific threshold"], rows),
            ]
        kinds = list(next(iter(self.confusion.values())))
        counts = [[label, *(str(found[kind]) for kind in kinds)] for label, found in self.confusion.items()]
        parts.append(_table(["at 0.5", *(kind.replace("_", " ") for kind in kinds)], counts))
        if self.largest:
            rows = [[label, *map(str, row)] for label, row in zip(info.labels, self.largest, strict=True)]
            parts.append("Taken for, by the largest probability:")
            parts.append(_table(["images of", *info.labels], rows))
        return parts

    def _sizes(self) -> list[str]:
        rows = [
            [f"{100 * one.above:g} to {100 * one.up_to:g} %", str(one.count), _interval(one.dice), str(one.missed)]
            for one in self.sizes
        ]
        return ["## Dice by size", _table(["share of the image", "masks", "Dice", "missed completely"], rows)]

    def _pictures(self) -> list[str]:
        # In angle brackets, since the name of a card may hold spaces.
        return [f"![{_text(shows)}](<{file}>)" for file, shows in self.pictures.items()]


def notes_of(card: Path) -> str:
    """Return the notes of an older card, or nothing where there is none.

    Raises DataError where the file is no card, which nothing of ours may replace.
    """
    if not card.exists():
        return ""
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines() if card.is_file() else []
    # A line of its own: the card's text may hold a name that reads like it.
    if NOTES not in lines:
        raise DataError(f"{card} is there and is no card, which has a line '{NOTES}'; choose another --output")
    return "\n".join(lines[lines.index(NOTES) + 1 :]).strip()


def _calibrated_on(calibration: Calibration | None) -> str:
    if calibration is None or not any(calibration.fitted):
        return "nothing"
    return f"{calibration.images} validation images"


def _is_statistic(name: str) -> bool:
    # Of batch norms: buffers, and not trained.
    return name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")


def _score_rows(scores: Mapping[str, Estimate], rows: Mapping[str, str], names: Sequence[str]) -> list[list[str]]:
    return [
        [title, *(_interval(scores[key]) if (key := f"{group}{end}") in scores else "" for end in ends)]
        for ends in [("", *(f"/{name}" for name in names))]
        for group, title in rows.items()
        if group in scores
    ]


def _interval(values: tuple[float, float, float]) -> str:
    # Distances are in pixels, all else is at most 1.
    digits = 3 if values[2] <= 1 else 1
    return "{:.{digits}f} ({:.{digits}f} to {:.{digits}f})".format(*values, digits=digits)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    align = align or "l" + "r" * (len(head) - 1)
    rule = [{"l": "---", "r": "---:"}[side] for side in align]
    # A bar in a name would end its cell.
    lines = [[_text(cell).replace("|", r"\|") for cell in line] for line in (head, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def _listed(names: Sequence[object]) -> str:
    return ", ".join(_text(str(name)) for name in names)


def _text(name: str) -> str:
    # A name is one line, whatever a checkpoint says.
    return as_line(name)
