"""Test in a real browser, before the real server, that the page shows what the server answers."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, expect

from data_pipeline.enlarge import DECISION, enlarge, resize_planes
from data_pipeline.overlay import areas, colour_of, open_upright
from data_pipeline.sources.mask_values import MaskRules, read_indices
from deploy.client import Client, Result
from deploy.contract import Contract
from deploy.server import Server
from tests.helpers.browser import NEEDS_CHROMIUM, Visit, chromium, pretend, visit
from tests.helpers.kinds import KINDS
from tests.helpers.wild import TURNED, exif_segment, with_segments

pytestmark = NEEDS_CHROMIUM
MakeImage = Callable[..., bytes]
# Where two classes are as likely as this, they may change places by rounding.
TIE = 1e-6


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Run one browser for the tests of this file."""
    with chromium() as running:
        yield running


def asked(server: Server, data: bytes) -> Result:
    """Return what the client says of an image."""
    with Client(server.grpc_url) as client:
        return client.segment(data, probabilities=True)


def certain(probabilities: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Tell which pixels of an image of this size are no tie."""
    planes = resize_planes(probabilities, size)
    if len(planes) == 1:
        return np.asarray(abs(planes[0] - DECISION) > TIE)
    best, second = np.sort(planes, axis=0)[[-1, -2]]
    return np.asarray(best - second > TIE)


def assert_mask(data: bytes, probabilities: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Compare a saved mask with the client's, and return it."""
    found = np.asarray(Image.open(io.BytesIO(data)))
    same = certain(probabilities, size)
    assert found.shape == size[::-1]
    assert same.mean() > 0.99
    np.testing.assert_array_equal(found[same], enlarge(probabilities, size)[same])
    return found


def test_mask_labels_and_areas_are_the_servers(browser: Browser, server: Server, make_image: MakeImage) -> None:
    size = (400, 300)
    data = make_image(size, "JPEG", quality=95)
    result = asked(server, data)
    assert result.seg_probabilities is not None
    with visit(browser, server.http_url) as seen:
        seen.drop({"photo.jpg": data})
        seen.settled(1)
        name, saved = seen.saved("#save-mask")
        assert name == "photo.mask.png"
        mask = assert_mask(saved, result.seg_probabilities, size)
        assert len(np.unique(mask)) > 1, "a mask of one value would prove little"
        name, saved = seen.saved("#save-result")
        assert name == "photo.result.json"
        record = json.loads(saved)["images"][0]
        assert record["classes"] == pytest.approx(result.class_probabilities, abs=1e-6)
        assert record["areas"] == areas(mask, result.seg_classes)
        assert (record["width"], record["height"]) == size
        assert record["request_id"]
        shown = dict(zip(seen.page.locator("#labels bdi").all_inner_texts(), figures(seen, "#labels"), strict=True))
        assert shown == {label: f"{100 * share:.1f} %" for label, share in result.class_probabilities.items()}
        assert seen.complaints == []


def figures(seen: Visit, place: str) -> list[str]:
    return seen.page.locator(f"{place} .figure").all_inner_texts()


def test_the_canvas_shows_the_mask_over_the_image(browser: Browser, server: Server, make_image: MakeImage) -> None:
    # A PNG, because decoders of JPEG differ by a level or two.
    data = make_image((120, 90), "PNG")
    picture = np.asarray(open_upright(data)).astype(np.float64)
    with visit(browser, server.http_url) as seen:
        seen.drop({"photo.png": data})
        seen.settled(1)
        mask = np.asarray(Image.open(io.BytesIO(seen.saved("#save-mask")[1])))
        seen.page.locator("#outline").fill("0")
        seen.page.locator("#opacity").fill("0.5")
        seen.page.click("#own-size")
        expect(seen.page.locator("#zoom")).to_have_text("100 %")
        colours = np.array([(0, 0, 0), *(colour_of(index) for index in range(1, 4))], np.float64)
        expected = np.where(mask[..., None] > 0, (picture + colours[mask]) / 2, picture)
        shown = own_size(seen, mask.shape)
        # Half of an odd value, and a layer's colours are kept multiplied by its opacity.
        assert abs(shown - expected).max() <= 3
        # A class that is switched off lets the image through.
        seen.page.locator("#classes input").first.uncheck()
        shown = own_size(seen, mask.shape)
        assert abs(shown[mask == 1] - picture[mask == 1]).max() <= 1
        assert abs(shown[mask == 2] - expected[mask == 2]).max() <= 3
        overlay = np.asarray(Image.open(io.BytesIO(seen.saved("#save-overlay")[1])).convert("RGB"), np.float64)
        assert abs(overlay - shown).max() <= 1


def own_size(seen: Visit, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Cut the picture, which is drawn at its own size, out of the canvas around it."""
    # The next frame has what the last change asked for.
    seen.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    pixels = seen.pixels()
    drawn = pixels[..., 3] > 0
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    cut = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1, :3]
    assert cut.shape[:2] == shape
    return cut.astype(np.float64)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(51, 51), (333, 47), (20, 90), (1, 1)], ids=str)
def test_any_probabilities_become_smooth_masks(
    browser: Browser, server: Server, contract: Contract, channels: int, size: tuple[int, int]
) -> None:
    # A coarse field has cells of one class and of several, as masks have.
    coarse = np.random.default_rng(channels).normal(size=(channels, 6, 6)).astype(np.float32)
    logits = torch.nn.functional.interpolate(torch.from_numpy(4 * coarse)[None], (51, 51), mode="bicubic")[0]
    probabilities = (logits.sigmoid() if channels == 1 else logits.softmax(0)).numpy()
    names = ("background", "a") if channels == 1 else ("background", "a", "b")
    pretended = replace(contract, seg_classes=names, labels=("x",), thresholds=None)
    with visit(browser, server.http_url) as seen:
        pretend(seen.page, pretended, probabilities, np.array([0.25], np.float32))
        seen.page.reload()
        seen.drop({"photo.png": encode(Image.new("RGB", size))})
        seen.settled(1)
        assert_mask(seen.saved("#save-mask")[1], probabilities, size)
        assert figures(seen, "#labels") == ["25.0 %"]


def encode(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_pictures_are_turned_as_the_server_turns_them(browser: Browser, server: Server) -> None:
    files = {f"{name}.{name.split('-')[0]}": data for name, (data, _) in TURNED.items()}
    files |= {f"orientation-{way}.jpeg": with_segments(exif_segment(way)) for way in range(1, 9)}
    with visit(browser, server.http_url) as seen:
        seen.drop(files)
        seen.settled(len(files))
        for name, data in files.items():
            picture = open_upright(data)
            seen.choose(name)
            expect(seen.page.locator("#size")).to_have_text(f"{picture.width} × {picture.height} px")
            for box in seen.page.locator("#classes input").all():
                box.uncheck()
            saved = Image.open(io.BytesIO(seen.saved("#save-overlay")[1])).convert("RGB")
            assert saved.size == picture.size, name
            # Decoders of JPEG differ a little, pictures that lie in another way by far more.
            difference = abs(np.asarray(saved, np.float64) - np.asarray(picture, np.float64)).mean()
            assert difference < 3, (name, difference)


def test_every_kind_of_file_is_shown_or_said_why_not(browser: Browser, server: Server) -> None:
    files = {f"{kind}.{kind.split('-')[0]}": make() for kind, make in KINDS.items()}
    with visit(browser, server.http_url) as seen:
        seen.drop(files)
        seen.settled(len(files))
        for name, data in files.items():
            seen.choose(name)
            picture = open_upright(data)
            expect(seen.page.locator("#size")).to_have_text(f"{picture.width} × {picture.height} px")
            message = seen.page.locator("#message")
            expect(message).to_contain_text("TIFF") if name.startswith("tiff") else expect(message).to_be_hidden()


def test_a_saved_mask_is_one_that_training_reads(browser: Browser, server: Server, make_image: MakeImage) -> None:
    with visit(browser, server.http_url) as seen:
        seen.drop({"photo.png": make_image((64, 48))})
        seen.settled(1)
        saved = seen.saved("#save-mask")[1]
    np.testing.assert_array_equal(read_indices(saved, MaskRules()).values, np.asarray(Image.open(io.BytesIO(saved))))
