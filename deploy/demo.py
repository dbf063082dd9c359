"""Run the whole path once: build the shipped checkpoint's engines, serve them, query them, draw the mask."""

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from data_pipeline import DataError, open_source
from data_pipeline.command_line import Output, new_parser, run_command
from data_pipeline.files import write_whole
from data_pipeline.overlay import draw, open_upright, png
from deploy import build_engine
from deploy.client import Client, ClientError, Result
from deploy.files import DIRECTORY
from deploy.server import Server, ServerError
from deploy.server.options import FREE_PORTS, ServerOptions

OVERLAY = "overlay.png"
EXAMPLES = """examples:
  python -m deploy.demo
  python -m deploy.demo --output build/again
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line, or exit with 2 where it is wrong."""
    parser = new_parser("deploy.demo", __doc__, EXAMPLES)
    parser.add_argument(
        "--output", type=Path, default=Path("build/demo"), help="where everything goes (default: build/demo)"
    )
    return parser.parse_args(arguments)


def query(repository: Path, image: bytes) -> dict[str, Result]:
    """Serve the repository on free ports and send it the image once over each protocol."""
    with Server(repository, FREE_PORTS) as server:
        results = {}
        # One after the other: on a CPU they would share the cores, and the times would tell nothing.
        with Client(server.grpc_url, "grpc") as client:
            results["grpc"] = client.segment(image, own_size=True)
        with Client(server.http_url, "http") as client:
            results["http"] = client.segment(image, own_size=True)
    return results


def result_table(results: dict[str, Result]) -> Table:
    """Return a table of what each protocol's result says, and how soon it came."""
    labels = list(results["grpc"].class_probabilities)
    shares_of = [f"{name}, % of image" for name in results["grpc"].seg_classes[1:]]
    # As Text, because names may hold brackets, which rich would take for markup in a string.
    table = Table("served over", "ms", *(Column(Text(name), overflow="fold") for name in (*labels, *shares_of)))
    for protocol, result in results.items():
        # At the image's own size, as the overlay and the client have them.
        mask = result.own_mask if result.own_mask is not None else result.mask
        shares = [100 * float(np.mean(mask == index)) for index in range(1, len(result.seg_classes))]
        figures = [f"{value:.3f}" for value in (*result.class_probabilities.values(), *shares)]
        table.add_row(protocol, f"{1000 * result.seconds:.1f}", *figures)
    return table


def serve_and_draw(output: Path, console: Console) -> None:
    """Query the server about one test image and write `overlay.png`.

    Raises ClientError where the protocols disagree.
    """
    # A generated image of the test split: no real one could be shipped, and the checkpoint was not trained on it.
    source = open_source("synthetic:skin", "test", samples=4).records[-1].image
    image = source.read_bytes()
    console.print(f"serving {output / DIRECTORY} and sending {source.name} ({len(image) / 1000:.0f} kB)")
    results = query(output / DIRECTORY, image)
    # To the bit: both protocols carry the same request to the same worker.
    if not np.array_equal(results["grpc"].mask, results["http"].mask):
        raise ClientError("gRPC and HTTP gave different masks for the same image")
    picture, mask = open_upright(image), results["grpc"].own_mask
    assert mask is not None
    write_whole(output / OVERLAY, png(draw(picture, mask)))
    console.print(result_table(results))
    console.print(f"overlay: {output / OVERLAY}")
    console.print(f"to try it in a browser: {python()} -m deploy.serve --repository {output / DIRECTORY}")
    console.print(f"then open http://127.0.0.1:{ServerOptions().http_port}/ and drop {source} or any photograph on it")


def python() -> Path:
    """Return this Python's program, as it is called from the current directory."""
    program = Path(sys.executable)
    return program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code.

    0 is done, 1 failed with one line, 2 misused.
    """
    output = parse_arguments(arguments).output
    # The build catches its own errors, and has printed the line where its code is not 0.
    if code := build_engine.main(["--output", str(output)]):
        return code
    return run_command(lambda: serve_and_draw(output, Output()), ClientError, DataError, ServerError, OSError)


if __name__ == "__main__":
    sys.exit(main())
