"""Measure the server's page in Chromium: what it adds to the server's answer, and what it costs other clients.

python -m bench.page --repository build/model_repository
"""

import base64
import http.client
import io
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console
from rich.table import Table

from data_pipeline.command_line import new_parser, positive, run_command
from data_pipeline.sources.synthetic import skin
from deploy.client import Client
from deploy.errors import ServerError
from deploy.server import Server
from deploy.server.options import FREE_PORTS

WIDTH, HEIGHT, QUALITY = 2000, 1500, 95  # about 1 MB as a JPEG
TURNS, CALLS = 6, 40  # of another client, with the page open and without it
ALONE = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
DROP = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
  const seen = new Promise((done) => new PerformanceObserver((list) => {
    const [{ duration, detail }] = list.getEntries();
    done([duration, detail.server, detail.roundTrip]);
  }).observe({ type: "measure" }));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name));
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
  return seen;
}"""


def photograph(seed: int) -> bytes:
    """Make a JPEG file that decodes like a photograph of about 1 MB."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(skin.generate(rng)[0])
    large = np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.int16)
    noisy = np.clip(large + rng.integers(-9, 10, large.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def dropped(page: Page, files: Sequence[bytes]) -> NDArray[np.float64]:
    """Drop files one after the other.

    Returns:
        (files, 3) milliseconds: from the drop to the mask on the screen, of the server, of the request.
    """
    times = []
    for number, data in enumerate(files):
        times.append(page.evaluate(DROP, [f"{number}.jpg", base64.b64encode(data).decode()]))
        page.click("#clear")
    return np.array(times)


def first_load(url: str) -> int:
    """Return the bytes of the page as a browser takes it."""
    with closing(http.client.HTTPConnection(url)) as connection:
        connection.request("GET", "/", headers={"Accept-Encoding": "gzip"})
        return len(connection.getresponse().read())


def others(browser: Browser, server: Server, image: bytes) -> tuple[float, float]:
    """Return the median milliseconds of another client without the page and with the page open, in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    with Client(server.grpc_url) as client:
        client.segment(image)
        for _ in range(TURNS):
            times[0].extend(client.segment(image).seconds for _ in range(CALLS))
            page = browser.new_page()
            page.goto(f"http://{server.http_url}/")
            page.wait_for_selector("#served dt")
            # What loading has started is over by then.
            page.wait_for_timeout(3000)
            times[1].extend(client.segment(image).seconds for _ in range(CALLS))
            page.close()
    closed, opened = (1000 * float(np.median(one)) for one in times)
    return closed, opened


def measure(repository: Path, images: int, chromium: str) -> Table:
    """Serve a repository, drop so many images on its page in Chromium, and return the times.

    Raises:
        ServerError: there is no such repository, or the server does not start.
    """
    files = [photograph(seed) for seed in range(images)]
    # A home of its own: Chromium leaves the number that its reports of crashes go by in there.
    with (
        Server(repository, FREE_PORTS) as server,
        TemporaryDirectory(ignore_cleanup_errors=True) as home,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=ALONE, env={**os.environ, "HOME": home})
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(f"http://{server.http_url}/")
        page.wait_for_selector("#served dt")
        dropped(page, files[:3])
        drawn, answered, asked = dropped(page, files).T
        page.close()
        closed, opened = others(browser, server, files[0])
        size = first_load(server.http_url)
        browser.close()
    megabytes = np.mean([len(one) for one in files]) / 1e6
    table = Table("what", "measured", title=f"{len(files)} JPEGs of {megabytes:.2f} MB, {WIDTH} x {HEIGHT}")
    for name, values in (
        ("from the drop to the mask on the screen", drawn),
        ("of that, decoding and network on the server", answered),
        ("of that, the request's whole round trip", asked),
        ("the page beyond the server's answer", drawn - answered),
    ):
        table.add_row(name, f"p50 {np.median(values):.1f} ms, p90 {np.percentile(values, 90):.1f} ms")
    table.add_row("first load", f"{size / 1000:.1f} kB")
    table.add_row("another client over gRPC, page closed / open and idle", f"p50 {closed:.1f} / {opened:.1f} ms")
    return table


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = new_parser("bench.page", __doc__)
    parser.add_argument("--repository", type=Path, default=Path("build/model_repository"), help="what is served")
    parser.add_argument("--images", type=positive(int), default=30, help="files to drop")
    options = parser.parse_args(arguments)
    chromium = shutil.which("chromium")
    if chromium is None:
        parser.error("Chromium is not installed: on Debian, apt install chromium")
    return run_command(
        lambda: Console().print(measure(options.repository, options.images, chromium)), ServerError, OSError
    )


if __name__ == "__main__":
    sys.exit(main())
