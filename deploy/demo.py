"""The whole path once: build the shipped checkpoint's engines, serve them, ask over gRPC and HTTP, draw the answer."""

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from data_pipeline import DataError, open_source
from data_pipeline.files import write_whole
from data_pipeline.overlay import draw, fit_mask, open_upright, png
from deploy import build_engine
from deploy.client import Client, ClientError, Result
from deploy.files import DIRECTORY
from deploy.server import Server, ServerError
from deploy.server.options import FREE_PORTS

OVERLAY = "overlay.png"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 and one line for a misuse."""
    parser = argparse.ArgumentParser(prog="python -m deploy.demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/demo"))
    return parser.parse_args(arguments)


def ask(repository: Path, image: bytes) -> dict[str, Result]:
    """Serve the repository on free ports and send it the image once over each protocol."""
    with Server(repository, FREE_PORTS) as server:
        results = {}
        with Client(server.grpc_url, "grpc") as client:
            results["grpc"] = client.segment(image)
        with Client(server.http_url, "http") as client:
            results["http"] = client.segment(image)
    return results


def answer_table(results: dict[str, Result]) -> Table:
    """What each protocol answered, and how soon."""
    labels = list(results["grpc"].class_probabilities)
    table = Table("served over", "ms", *labels, *(f"{name}, % of image" for name in results["grpc"].seg_classes[1:]))
    for protocol, result in results.items():
        shares = [100 * float(np.mean(result.mask == index)) for index in range(1, len(result.seg_classes))]
        figures = [f"{value:.3f}" for value in (*result.class_probabilities.values(), *shares)]
        table.add_row(protocol, f"{1000 * result.seconds:.1f}", *figures)
    return table


def serve_and_draw(output: Path, console: Console) -> None:
    """Ask the server about one test image and leave `overlay.png`; raises ClientError where the protocols disagree."""
    source = open_source("synthetic:skin", "test", samples=4).records[-1].image
    image = source.read_bytes()
    console.print(f"serving {output / DIRECTORY} and sending {source.name} ({len(image) / 1000:.0f} kB)")
    results = ask(output / DIRECTORY, image)
    if not np.array_equal(results["grpc"].mask, results["http"].mask):
        raise ClientError("gRPC and HTTP gave different masks for the same image")
    picture = open_upright(image)
    write_whole(output / OVERLAY, png(draw(picture, fit_mask(results["grpc"].mask, picture.size))))
    console.print(answer_table(results))
    console.print(f"overlay: {output / OVERLAY}")


def main(arguments: list[str] | None = None) -> int:
    """0 done, 1 failed with one line, 2 misused."""
    output = parse_arguments(arguments).output
    if code := build_engine.main(["--output", str(output)]):
        return code
    try:
        serve_and_draw(output, Console())
    except (ClientError, DataError, ServerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
