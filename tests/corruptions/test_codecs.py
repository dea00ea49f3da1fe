"""JPEG and WebP: what Pillow writes and reads, the same for every batch, order, type and number of threads."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from robustbench_df.corruptions.codecs import jpeg, webp
from robustbench_df.errors import UsageError
from tests.corruptions.helpers import floats, psnr

SIZES = [(32, 32), (33, 47), (70, 96)]

CODECS = pytest.mark.parametrize("codec", [jpeg, webp])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("codec", "name"), [(jpeg, "JPEG"), (webp, "WEBP")])
def test_equals_the_file_that_pillow_writes(codec, name, size):
    x = floats(2, *size)
    for image, out in zip(x, codec(x, 40), strict=True):
        file = BytesIO()
        Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(file, name, quality=40)
        expected = np.asarray(Image.open(file)).transpose(2, 0, 1)
        np.testing.assert_array_equal((out * 255).round().byte().numpy(), expected)


@CODECS
def test_a_quality_per_image(codec):
    x = floats(3, 33, 47)
    out = codec(x, torch.tensor([90, 10, 50]))
    for row, quality in enumerate((90, 10, 50)):
        assert torch.equal(out[row : row + 1], codec(x[row : row + 1], quality))
    assert not torch.equal(out[0], codec(x, 10)[0])


@CODECS
def test_order_and_threads_do_not_matter(codec, monkeypatch):
    x = floats(5, 70, 96)
    order = torch.tensor([3, 0, 4, 1, 2])
    alone = codec(x, 60)
    assert torch.equal(codec(x[order], 60), alone[order])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr("robustbench_df.corruptions.codecs._CHUNK_PIXELS", 1)
    assert torch.equal(codec(x, 60), alone)


@CODECS
def test_lower_quality_is_farther_from_the_image(codec):
    x = floats(8, 32, 32)
    distances = [psnr(x * 255, codec(x, quality) * 255) for quality in (95, 75, 50, 25, 5)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] - distances[-1] > 5


@CODECS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_type_and_levels(codec, dtype):
    out = codec(floats(2, 33, 47).to(dtype), 80)
    assert out.dtype == dtype
    assert out.shape == (2, 3, 33, 47)
    assert torch.allclose(out * 255, (out * 255).round(), atol=1e-4)
    assert 0 <= out.min() <= out.max() <= 1


@CODECS
def test_bytes_in_bytes_out(codec):
    x = floats(3, 33, 47)
    kept = (x * 255).round().byte()
    out = codec(kept, 30)
    assert out.dtype == torch.uint8
    assert torch.equal(kept, (x * 255).round().byte())
    assert torch.equal(out, (codec(x, 30) * 255).round().byte())


@CODECS
def test_values_outside_are_clipped_not_wrapped(codec):
    x = torch.cat((torch.full((1, 3, 16, 16), 1.7), torch.full((1, 3, 16, 16), -0.4)))
    assert torch.allclose(codec(x, 90), x.clamp(0, 1), atol=2 / 255)


@CODECS
@pytest.mark.parametrize("quality", [0, 101, torch.tensor([50, 101])])
def test_quality_out_of_range(codec, quality):
    with pytest.raises(UsageError, match=r"quality must be 1 to 100, not (0|101)$"):
        codec(floats(2, 16, 16), quality)


@CODECS
def test_an_empty_batch_stays_empty(codec):
    assert codec(torch.zeros(0, 3, 16, 16), 75).shape == (0, 3, 16, 16)


@pytest.mark.parametrize("size", [(33, 47), (100, 200)])
def test_either_encoder_writes_the_same(size, monkeypatch):
    """Which of them is taken depends on the size alone."""
    x = floats(3, *size)
    chosen = [jpeg(x, quality) for quality in (7, 40, 95)]
    for large in (1, 1 << 30):
        monkeypatch.setattr("robustbench_df.corruptions.codecs._LARGE", large)
        assert all(torch.equal(jpeg(x, q), out) for q, out in zip((7, 40, 95), chosen, strict=True))


@pytest.mark.parametrize("size", [(33, 47), (150, 120)])
def test_pillow_takes_over_where_torchvision_has_no_jpeg(size, monkeypatch):
    x = floats(3, *size)
    fast = jpeg(x, 70)
    monkeypatch.setattr("robustbench_df.corruptions.codecs._TORCHVISION", False)
    assert torch.equal(jpeg(x, 70), fast)
