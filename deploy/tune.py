"""Find out how many workers and threads serve a network best on this machine, and write it into its repository."""

import argparse
import hashlib
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_pipeline.command_line import Output, new_parser, positive, run_command
from data_pipeline.cores import cores, processor
from data_pipeline.files import write_whole
from deploy.client import ClientError
from deploy.content import HASH
from deploy.contract import PIPELINE_MODEL
from deploy.errors import ServerError
from deploy.files import TUNING
from deploy.server.model_configs import read_repository
from deploy.server.options import Workers, plural
from deploy.server.tuning import Tuned, write_tuning
from deploy.tuning import Point, best, callers_for, grid, quickest
from deploy.tuning.load import measured_server
from deploy.tuning.plot import plot, table

FIGURES, PICTURE = "tune.json", "tune.png"
PHOTOGRAPH = (1024, 768)
RUNTIMES = ("openvino", "onnxruntime", "nvidia-pytriton")  # what answers
EXAMPLES = """examples:
  python -m deploy.tune                                              (the most answers a second)
  python -m deploy.tune --repository build/mine/model_repository --p99-ms 100
  python -m deploy.tune --image photograph.jpg --seconds 20          (what this server will be sent, measured longer)
"""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Hold what is measured, and where.

    subject: what figures must have in common to be compared: the network, the image, the machine and the time.
    output: the folder of the results.
    points: measured so far.
    """

    subject: dict[str, Any]
    output: Path
    points: list[Point]

    @classmethod
    def load(cls, subject: dict[str, Any], output: Path) -> "Study":
        """Go on with what an earlier run has measured of the same subject, if there is any."""
        try:
            earlier = json.loads((output / FIGURES).read_text(encoding="utf-8"))
            points = [Point(**fields) for fields in earlier["points"]] if earlier["subject"] == subject else []
        except (OSError, ValueError, KeyError, TypeError):
            points = []
        return cls(subject=subject, output=output, points=points)

    def add(self, point: Point) -> None:
        """Keep a point, also for a run after this one was interrupted."""
        self.points.append(point)
        self.write({})

    def write(self, chosen: dict[str, Workers]) -> None:
        """Write all of it as JSON."""
        choices = {name: asdict(choice) for name, choice in chosen.items()}
        fields = {"subject": self.subject, "chosen": choices, "points": [asdict(point) for point in self.points]}
        write_whole(self.output / FIGURES, json.dumps(fields, indent=2) + "\n")

    def missing(self) -> Iterator[tuple[Workers, list[int]]]:
        """Yield each choice that is not measured yet, with the numbers of callers."""
        measured = {(point.choice, point.callers) for point in self.points}
        for choice in grid(cores()):
            left = [callers for callers in callers_for(choice.workers) if (choice, callers) not in measured]
            if left:
                yield choice, left


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0 is done, 1 failed with one line, 2 misused.
    """
    options = parse_arguments(arguments)
    return run_command(lambda: run(options), ServerError, ClientError, OSError)


def run(options: argparse.Namespace) -> None:
    """Measure what is missing, choose, and write the choice into the repository."""
    sha256 = read_repository(options.repository)[PIPELINE_MODEL].parameters[HASH].string_value
    image = options.image.read_bytes() if options.image else photograph()
    here: dict[str, Any] = {"processor": processor(), "cores": cores()}
    about = {"image_sha256": hashlib.sha256(image).hexdigest(), "seconds": options.seconds}
    # Figures of other versions are not to be compared with.
    about |= {package: version(package) for package in RUNTIMES}
    study = Study.load({"sha256": sha256, **about, **here}, options.output)
    measure(study, options.repository, image, Output(stderr=True))
    # The limit is for the choice that is best. The two ends are what they are.
    found = {
        "tuned": best(study.points, options.p99_ms),
        "latency": quickest(study.points),
        "throughput": best(study.points, None),
    }
    chosen: dict[str, Any] = {name: point.choice for name, point in found.items()}
    study.write(chosen)
    write_tuning(options.repository, Tuned(sha256=sha256, **here, **chosen))
    title = f"{here['processor']}, {here['cores']} cores"
    plot(study.points, chosen["tuned"], options.p99_ms, title, options.output / PICTURE)
    console, point = Output(), found["tuned"]
    console.print(table(study.points, chosen))
    console.print(
        f"{point.choice}: {point.rate:.1f} answers/s to {plural(point.callers, 'caller')}, p99 {point.p99_ms:.1f} ms. "
        f"deploy.serve takes it from {options.repository / TUNING}; the figures are in {options.output}"
    )


def measure(study: Study, repository: Path, image: bytes, console: Output) -> None:
    """Measure every point that is missing, one server for each choice."""
    missing = list(study.missing())
    for number, (choice, callers) in enumerate(missing, 1):
        console.print(f"{number} of {len(missing)}: {choice}")
        with measured_server(repository, choice) as load:
            for count in callers:
                point = load.run(image, count, study.subject["seconds"])
                study.add(point)
                console.print(f"  {plural(count, 'caller')}: {point.rate:.1f} answers/s, p99 {point.p99_ms:.1f} ms")


def photograph() -> bytes:
    """Return a drawn JPEG file of usual size, the same each time."""
    file, (width, height) = io.BytesIO(), PHOTOGRAPH
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    Image.fromarray(coarse).resize(PHOTOGRAPH, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, or exit with 2 where it is wrong."""
    parser = new_parser("deploy.tune", __doc__, EXAMPLES)
    parser.add_argument(
        "--repository", type=Path, default=Path("build/model_repository"), metavar="DIR", help="to tune"
    )
    parser.add_argument(
        "--p99-ms", type=positive(float), metavar="N", help="the longest 99th percentile (default: any)"
    )
    parser.add_argument(
        "--image", type=Path, metavar="FILE", help="what the callers send (default: a drawn JPEG of 1024 x 768 pixels)"
    )
    parser.add_argument(
        "--seconds", type=positive(float), default=5.0, help="for each choice and number of callers (default: 5)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("build/tune"), metavar="DIR", help="where figures and plot go"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
