"""Drive the server's page in the system's Chromium, as a user would, and note all that it asks for and complains of."""

import base64
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, Request, Route, expect, sync_playwright

from deploy.contract import PIPELINE_MODEL, Contract

CHROMIUM = shutil.which("chromium")
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: on Debian, apt install chromium")
# Nothing but what a test asks for: Chromium would otherwise look up its maker's hosts.
ALONE = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-domain-reliability"),
)
# A browser and a server on two busy cores, of which the server may be in repair.
expect.set_options(timeout=60_000)

DROP = """files => {
  const data = new DataTransfer();
  for (const { name, content } of files) {
    data.items.add(new File([Uint8Array.from(atob(content), (one) => one.charCodeAt(0))], name));
  }
  const event = { dataTransfer: data, bubbles: true, cancelable: true };
  document.body.dispatchEvent(new DragEvent("drop", event));
}"""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """Hold an open page of one server.

    page: Playwright's own handle.
    requests: all that the page has asked for.
    complaints: what stands in the console, and errors that no script has caught.
    """

    page: Page
    requests: list[Request] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def drop(self, files: dict[str, bytes]) -> None:
        """Drop files on the page, by name."""
        encoded = [{"name": name, "content": base64.b64encode(data).decode()} for name, data in files.items()]
        self.page.evaluate(DROP, encoded)

    def settled(self, answered: int, failed: int = 0) -> None:
        """Wait until so many images have an answer, and so many none."""
        count = answered + failed
        expected = f"{answered} of {count} answered" + (f", {failed} failed" if failed else "")
        expect(self.page.locator("#count")).to_have_text(expected)

    def choose(self, name: str) -> None:
        """Choose a result, and wait until it is shown."""
        self.page.get_by_role("button", name=name).first.click()
        expect(self.page.locator("#name")).to_have_text(name)

    def saved(self, button: str) -> tuple[str, bytes]:
        """Return the name and the bytes of the file that a button saves."""
        expect(self.page.locator(button)).to_be_enabled()
        with self.page.expect_download() as download:
            self.page.click(button)
        return download.value.suggested_filename, download.value.path().read_bytes()

    def pixels(self) -> NDArray[np.uint8]:
        """Return what the canvas shows, (height, width, 4)."""
        found = self.page.evaluate(
            """() => {
              const canvas = document.getElementById("canvas");
              const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
              let text = "";
              for (let at = 0; at < data.length; at += 8192) {
                text += String.fromCharCode(...data.subarray(at, at + 8192));
              }
              return [canvas.height, canvas.width, btoa(text)];
            }"""
        )
        return np.frombuffer(base64.b64decode(found[2]), np.uint8).reshape(found[0], found[1], 4)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run the browser for as long as the block lasts."""
    # A home of its own: Chromium leaves the number that its reports of crashes go by in there.
    with TemporaryDirectory(ignore_cleanup_errors=True) as home, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ALONE, env={**os.environ, "HOME": home})
        yield browser
        browser.close()


@contextmanager
def visit(browser: Browser, url: str, **options: Any) -> Iterator[Visit]:
    """Open the page of a server at host:port, in a new profile.

    Fail at the end where the page has asked for anything of another host, or an error was caught by nobody.
    """
    context = browser.new_context(**{"viewport": {"width": 1024, "height": 768}, **options})
    page = context.new_page()
    seen = Visit(page=page)
    page.on("request", lambda request: seen.requests.append(request))
    page.on("console", lambda message: seen.complaints.append(message.text))
    page.on("pageerror", lambda error: seen.complaints.append(f"uncaught: {error}"))
    page.goto(f"http://{url}/")
    yield seen
    elsewhere = [one.url for one in seen.requests if not one.url.startswith((f"http://{url}/", "data:", "blob:"))]
    context.close()
    assert not elsewhere
    assert not [one for one in seen.complaints if one.startswith("uncaught") or "Content Security" in one]


def is_inference(request: Request) -> bool:
    """Tell whether a request carries an image."""
    return request.url.endswith("/infer")


def pretend(
    page: Page,
    contract: Contract,
    probabilities: NDArray[np.float32],
    labels: NDArray[np.float32],
    *,
    version: str = "1",
    sha256: str = "abc",
) -> None:
    """Answer the page in the server's place: any image with these probabilities, (K, S, S), and these labels."""
    config = {
        "input": [{"name": "IMAGE"}],
        "version_policy": {"specific": {"versions": [version]}},
        "parameters": {
            name: {"string_value": text}
            for name, text in (("contract", contract.to_json()), ("network", "model.onnx"), ("sha256", sha256))
        },
    }
    tensors = {"SEG_PROBS": probabilities, "CLASS_PROBS": labels}
    outputs = [{"name": name, "parameters": {"binary_data_size": one.nbytes}} for name, one in tensors.items()]
    head = json.dumps({"parameters": {"sha256": sha256}, "model_version": version, "outputs": outputs}).encode()
    body = head + b"".join(one.astype(np.float32).tobytes() for one in tensors.values())

    def infer(route: Route) -> None:
        route.fulfill(body=body, headers={"Inference-Header-Content-Length": str(len(head))})

    page.route(re.compile(f"/{PIPELINE_MODEL}/config$"), lambda route: route.fulfill(json=config))
    page.route(re.compile(f"/{PIPELINE_MODEL}/infer$"), infer)
