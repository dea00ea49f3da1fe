"""Colour against scikit-image's HSV, resolution and JPEG against Pillow, shape against scipy."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from skimage.color import hsv2rgb, rgb2hsv

from robustbench_df.corruptions.digital import (
    brightness,
    contrast,
    elastic_transform,
    jpeg_compression,
    pixelate,
    saturate,
)
from tests.corruptions.helpers import draw_for, floats, given, photos


def many_colours() -> torch.Tensor:
    """All colours of 16 levels a channel, greys and black among them."""
    steps = torch.linspace(0, 1, 16)
    return torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij")).reshape(1, 3, 64, 64)


def hsv_changed(x: torch.Tensor, channel: int, factor: float, added: float) -> np.ndarray:
    hsv = rgb2hsv(x[0].permute(1, 2, 0).double().numpy())
    hsv[..., channel] = np.clip(hsv[..., channel] * factor + added, 0, 1)
    return hsv2rgb(hsv).transpose(2, 0, 1)


@pytest.mark.parametrize("added", [0.05, 0.5])
def test_brightness_adds_to_the_value_of_hsv(added: float) -> None:
    x = many_colours()
    out = brightness(x, (added,), draw_for(x))[0].numpy()
    assert np.abs(out - hsv_changed(x, 2, 1, added)).max() < 1e-5


@pytest.mark.parametrize("setting", [(0.3, 0), (1.5, 0), (2.5, 0.2), (20, 0.2)])
def test_saturate_changes_the_saturation_of_hsv(setting: tuple[float, float]) -> None:
    x = many_colours()
    out = saturate(x, setting, draw_for(x))[0].numpy()
    assert np.abs(out - hsv_changed(x, 1, *setting)).max() < 1e-5


def test_contrast_keeps_the_mean_and_scales_the_spread() -> None:
    x = floats(3, 33, 47)
    out = contrast(x, (0.3,), draw_for(x))
    assert torch.allclose(out.mean((2, 3)), x.mean((2, 3)), atol=1e-6)
    assert torch.allclose(out.std((2, 3)), 0.3 * x.std((2, 3)), atol=1e-6)


@pytest.mark.parametrize("quality", [80, 7])
def test_jpeg_is_pillows(quality: int) -> None:
    x = photos(3, 33, 47)
    out = jpeg_compression(x.float() / 255, (quality,), draw_for(x)) * 255
    for image, result in zip(x, out, strict=True):
        file = BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        assert np.abs(np.asarray(Image.open(file)).transpose(2, 0, 1) - result.numpy()).max() < 1e-3


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (224, 300), (3, 2), (1, 1)])
@pytest.mark.parametrize("share", [0.95, 0.75, 0.6, 0.25])
def test_pixelate_is_pillows_box_filter_both_ways(size: tuple[int, int], share: float) -> None:
    height, width = size
    small = max(1, int(width * share)), max(1, int(height * share))
    x = photos(1, *size)
    image = Image.fromarray(x[0].permute(1, 2, 0).numpy())
    image = image.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BOX)
    out = pixelate(x.float() / 255, (share,), draw_for(x))[0] * 255
    assert np.abs(out.numpy() - np.asarray(image).transpose(2, 0, 1)).max() <= 1.001


STILL = torch.full((1, 3, 2), 0.5)
"""Points that stay where they are."""


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (1, 1)])
def test_elastic_without_a_move_does_nothing(size: tuple[int, int]) -> None:
    x = floats(1, *size)
    assert torch.allclose(elastic_transform(x, (0, 0, 5), given(1, points=STILL)), x, atol=1e-5)


def test_elastic_carries_the_three_points_to_where_they_were_moved() -> None:
    height, width = 60, 90
    corners = torch.tensor([[45.0 + 20, 30 + 20], [45 + 20, 30 - 20], [45 - 20, 30 - 20]])  # x, y
    moves = torch.tensor([[3.0, -2.0], [-4.0, 1.0], [2.0, 5.0]])
    x = torch.zeros(1, 3, height, width)
    for column, row in corners.long().tolist():
        x[:, :, row - 1 : row + 2, column - 1 : column + 2] = 1
    out = elastic_transform(x, (0, 0, 5), given(1, points=(moves[None] / 5 + 1) / 2))
    for column, row in (corners + moves).long().tolist():
        assert out[0, :, row, column].min() > 0.9


def test_elastic_shifts_by_whole_pixels_and_mirrors_the_outside() -> None:
    x = floats(1, 20, 30)
    points = (torch.tensor([2.0, 1.0]).expand(1, 3, 2) / 4 + 1) / 2
    out = elastic_transform(x, (0, 0, 4), given(1, points=points))
    expected = torch.cat([x[..., 1:3].flip(-1), x[..., :-2]], -1)
    expected = torch.cat([expected[..., 1:2, :], expected[..., :-1, :]], -2)
    assert torch.allclose(out, expected, atol=1e-4)


@pytest.mark.parametrize(("amplitude", "sigma"), [(8.0, 0.5), (60.0, 3.0), (500.0, 40.0)])
def test_elastic_follows_its_field_as_scipy_does(amplitude: float, sigma: float) -> None:
    size = (33, 47)
    x = floats(2, *size)
    noise = torch.rand(2, 2, *size, generator=torch.Generator().manual_seed(0))
    out = elastic_transform(x, (amplitude, sigma, 5), given(2, points=STILL.expand(2, 3, 2), field=noise))
    rows, columns = np.indices(size)
    for i in range(2):
        dx, dy = (
            ndimage.gaussian_filter(2 * part.double().numpy() - 1, sigma, mode="reflect", truncate=3.0) * amplitude
            for part in noise[i]
        )
        for channel in range(3):
            expected = ndimage.map_coordinates(
                x[i, channel].double().numpy(), (rows + dy, columns + dx), order=1, mode="reflect"
            )
            assert np.abs(out[i, channel].numpy() - expected).max() < 1e-3


def test_elastic_survives_three_points_on_one_line() -> None:
    x = floats(1, 30, 30)
    moves = torch.tensor([[[0.0, 0.0], [0.0, 10.0], [20.0, 20.0]]])  # all three onto one spot or line
    out = elastic_transform(x, (0, 0, 20), given(1, points=(moves / 20 + 1) / 2))
    assert torch.isfinite(out).all()
