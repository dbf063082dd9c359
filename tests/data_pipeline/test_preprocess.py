"""Test the serving graph against its reference, and its behaviour on files that are no good images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline import ImageError, Preprocessing, Preprocessor, serialize_serving
from data_pipeline.graph.reference import reference_preprocess, reference_resize
from tests.helpers.kinds import BAD, JPEG, KINDS, PNG, encode


@pytest.fixture(scope="module")
def preprocessor(spec: Preprocessing) -> Preprocessor:
    return Preprocessor(spec)


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_reference(kind: str, preprocessor: Preprocessor, spec: Preprocessing) -> None:
    data = KINDS[kind]()
    result, expected = preprocessor(data), reference_preprocess(data, spec)
    assert result.dtype == np.float32
    difference = np.abs(result - expected) * np.array(spec.std)[:, None, None] * 255
    assert difference.mean() < 0.1
    assert difference.max() < 1.0


def test_sixteen_bits_are_not_crushed_to_eight() -> None:
    values = np.arange(24 * 24).reshape(24, 24) + 30000  # all within three steps of an 8-bit scale
    data = encode(Image.fromarray(values.astype(np.uint16)), "PNG")
    result = Preprocessor(Preprocessing(image_size=24, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))(data)
    np.testing.assert_allclose(result[1] * 65535, values, atol=0.05)


def test_reference_resize_keeps_a_constant_and_averages_a_fine_pattern() -> None:
    stripes = np.tile([0.0, 1.0], 60)[None, :, None].repeat(31, axis=0)
    assert np.allclose(reference_resize(np.full((31, 17, 1), 0.3), 50), 0.3)
    assert np.allclose(reference_resize(stripes, 12)[:, 1:-1], 0.5)


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_fails_alone_and_in_one_line(kind: str, preprocessor: Preprocessor) -> None:
    before = preprocessor(JPEG)
    with pytest.raises(ImageError) as caught:
        preprocessor(BAD[kind])
    assert "\n" not in str(caught.value)
    assert "/" not in str(caught.value)
    np.testing.assert_array_equal(preprocessor(JPEG), before)


def test_the_limit_on_pixels_is_the_callers(spec: Preprocessing) -> None:
    small = Preprocessor(spec, max_pixels=75 * 110)
    assert small(PNG).shape == (3, 48, 48)
    with pytest.raises(ImageError, match="110 x 76 pixels, more than the limit of 8,250"):
        small(encode(Image.new("RGB", (110, 76)), "PNG"))


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_serving_graph_is_serialised_without_a_gpu(device: str, spec: Preprocessing, tmp_path: Path) -> None:
    path = tmp_path / "model.dali"
    serialize_serving(path, spec, input_name="IMAGE_BYTES", max_batch=4, device=device)  # type: ignore[arg-type]
    content = path.read_bytes()
    assert b"IMAGE_BYTES" in content
    assert (b"mixed" in content) == (device == "gpu")
    # Engines are verified on libjpeg's chroma, which nvJPEG computes only when it is told to.
    assert (b"jpeg_fancy_upsampling" in content) == (device == "gpu")
    # DALI would write the path and the text of every line of Python that the graph was made in.
    assert str(Path(__file__).parents[2]).encode() not in content and b".py" not in content
    assert [file.name for file in tmp_path.iterdir()] == ["model.dali"]


def test_the_serialised_cpu_graph_gives_the_same_pixels(spec: Preprocessing, tmp_path: Path) -> None:
    from nvidia.dali.pipeline import Pipeline

    serialize_serving(tmp_path / "model.dali", spec, input_name="X", max_batch=1, device="cpu")
    served = Pipeline.deserialize(filename=str(tmp_path / "model.dali"), prefetch_queue_depth=1)
    served.feed_input("X", [np.frombuffer(JPEG, np.uint8)])
    (result,) = served.run()
    np.testing.assert_array_equal(np.asarray(result[0]), Preprocessor(spec)(JPEG))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_the_serialised_graph_refuses_too_many_pixels(
    kind: str, spec: Preprocessing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serve the graph as the DALI backend does, where no Python looks at the header first."""
    from nvidia.dali.pipeline import Pipeline

    monkeypatch.setattr("data_pipeline.serving.MAX_PIXELS", 110 * 75)
    serialize_serving(tmp_path / "model.dali", spec, input_name="X", max_batch=1, device="cpu")
    for height in (75, 76):
        served = Pipeline.deserialize(filename=str(tmp_path / "model.dali"), prefetch_queue_depth=1)
        served.feed_input("X", [np.frombuffer(encode(Image.new("RGB", (110, height)), kind), np.uint8)])
        if height == 75:
            served.run()
        else:
            with pytest.raises(RuntimeError, match="out of bounds"):
                served.run()
