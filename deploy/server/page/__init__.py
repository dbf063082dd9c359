"""Serve the page on which images are shown with their masks.

This folder's files become one when the server starts, so that a browser loads the page with one request, and its policy
allows exactly these scripts and styles, by their hashes, and nothing of any other origin.
"""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from aiohttp import web

from data_pipeline.overlay import OPACITY, PALETTE, PIXELS_PER_OUTLINE
from deploy.contract import OUTPUTS, PIPELINE_MODEL

FOLDER = Path(__file__).parent
PATH = "/"
MAIN = "main"
# What joining the modules takes away: each of them imports whole names from its neighbours and nothing else.
IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+)\.js";\n', re.MULTILINE)
EXPORT = re.compile(r"^export ", re.MULTILINE)


class Page:
    """Hold the page, plain and compressed, with its headers."""

    def __init__(self) -> None:
        """Put the page together, which takes some milliseconds."""
        style, script = (FOLDER / "style.css").read_text(encoding="utf-8"), join_modules()
        text = (FOLDER / "page.html").read_text(encoding="utf-8")
        for place, content in (("style", style), ("settings", settings()), ("script", script)):
            text = text.replace(f"/* {place} */", content)
        self._body = text.encode()
        # Without a time in it, so that the same files give the same bytes.
        self._compressed = gzip.compress(self._body, mtime=0)
        self._headers = headers(style, script)

    async def respond(self, request: web.Request) -> web.Response:
        """Answer a request for the page."""
        if "gzip" not in request.headers.get("Accept-Encoding", ""):
            return web.Response(body=self._body, headers=self._headers)
        return web.Response(body=self._compressed, headers={**self._headers, "Content-Encoding": "gzip"})


def join_modules() -> str:
    """Return all JavaScript as one module: each file once, behind those that it imports."""
    return "\n".join(
        EXPORT.sub("", IMPORT.sub("", (FOLDER / f"{name}.js").read_text(encoding="utf-8"))) for name in in_order()
    )


def in_order() -> Iterator[str]:
    """Yield the names of the modules, `main` last."""
    done: set[str] = set()

    def visit(name: str) -> Iterator[str]:
        done.add(name)
        for match in IMPORT.finditer((FOLDER / f"{name}.js").read_text(encoding="utf-8")):
            if match[1] not in done:
                yield from visit(match[1])
        yield name

    return visit(MAIN)


def settings() -> str:
    """Return as JSON what the page shares with the rest of the project."""
    _, labels, probabilities = OUTPUTS
    values = {
        "model": PIPELINE_MODEL,
        "labels": labels,
        "probabilities": probabilities,
        "palette": PALETTE,
        "opacity": OPACITY,
        "pixelsPerOutline": PIXELS_PER_OUTLINE,
        "release": release(),
    }
    # Inside of a script element, nothing may look like its end.
    return json.dumps(values).replace("<", "\\u003c")


def release() -> str:
    """Return the version of this project, empty where it was not installed."""
    try:
        return version("resformer-deploy")
    except PackageNotFoundError:
        return ""


def headers(style: str, script: str) -> dict[str, str]:
    """Return the headers that keep the page to itself: its own code, its own server, no frame around it."""
    policy = {
        "default-src": "'none'",
        "script-src": hash_source(script),
        "style-src": hash_source(style),
        # The icon is a data: URL, and what is saved a blob: one.
        "img-src": "data: blob:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        # No text can become HTML or code, by any mistake in the scripts.
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        # The server may be a newer one at the next visit.
        "Cache-Control": "no-cache",
        "Vary": "Accept-Encoding",
    }


def hash_source(text: str) -> str:
    """Return what a Content-Security-Policy calls an inline script or style by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
