"""Weather: layers checked against their definitions, severities against each other, noise against the batch."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from robustbench_df.corruptions import layers, weather
from robustbench_df.corruptions.blur import gaussian
from robustbench_df.corruptions.core import SEVERITIES, Draw
from robustbench_df.corruptions.library import mended_library
from robustbench_df.errors import UsageError
from tests.corruptions.helpers import floats, given


def draw(ids, setting=0):
    return Draw(torch.arange(ids) if isinstance(ids, int) else ids, (7, "test", repr(setting)))


ALL = {
    "frost": (weather.frost, weather.FROST),
    "fog": (weather.fog, weather.FOG),
    "snow": (weather.snow, weather.SNOW),
    "spatter": (weather.spatter, weather.SPATTER),
}
EACH = pytest.mark.parametrize("name", ALL)
SETS = pytest.mark.parametrize("constants", ["cifar", "imagenet"])


def run(name, x, severity, constants="cifar", ids=None):
    apply, settings = ALL[name]
    setting = settings[constants][severity - 1]
    return apply(x, setting, draw(len(x) if ids is None else ids, setting)).clamp(0, 1)


@EACH
@SETS
def test_alone_in_a_batch_and_in_another_order(name, constants):
    x, ids = floats(6, 33, 47), torch.tensor([5, 900, 2**40, 7, 1, 33])
    for severity in (1, 5):
        together = run(name, x, severity, constants, ids)
        order = torch.tensor([4, 2, 0, 5, 3, 1])
        assert torch.equal(run(name, x[order], severity, constants, ids[order]), together[order])
        assert torch.equal(run(name, x[2:3], severity, constants, ids[2:3]), together[2:3])


@EACH
def test_another_image_meets_other_weather(name):
    x = floats(1, 32, 32).expand(8, -1, -1, -1).contiguous()
    assert len(torch.unique(run(name, x, 5), dim=0)) == 8


@pytest.mark.parametrize(("constants", "size"), [("cifar", 32), ("imagenet", 128)])
def test_each_frost_leaves_less_of_the_image(constants, size):
    """In likeness, not in PSNR: from 3 on the sum is no brighter. 4 is left out: it is 3 with less of it clipped."""
    x = floats(48, size, size)
    flat = [run("frost", x, severity, constants).flatten(1) for severity in (1, 2, 3, 5)]
    likeness = [
        sum(float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(x.flatten(1), out, strict=True)) / len(x)
        for out in flat
    ]
    assert likeness == sorted(likeness, reverse=True), likeness


@EACH
def test_does_not_write_into_its_input(name):
    x = floats(2, 32, 32)
    kept = x.clone()
    run(name, x, 5)
    assert torch.equal(x, kept)


def plasma_by_hand(noise, side, decay):
    """Diamond-square of one map, point by point, from its definition."""
    height = np.zeros((side, side))
    step, amplitude = side, 1.0
    while step > 1:
        half, k = step // 2, side // step
        wobble = (noise(k)[0].double().numpy() * 2 - 1) * amplitude
        for i in range(k):
            for j in range(k):
                y, x = i * step, j * step
                corners = (height[(y + a) % side, (x + b) % side] for a in (0, step) for b in (0, step))
                height[y + half, x + half] = sum(corners) / 4 + wobble[0, i, j]
        for i in range(k):
            for j in range(k):
                y, x = i * step, j * step
                for which, (cy, cx) in enumerate(((y, x + half), (y + half, x)), 1):
                    around = ((cy - half, cx), (cy + half, cx), (cy, cx - half), (cy, cx + half))
                    height[cy, cx] = sum(height[a % side, b % side] for a, b in around) / 4 + wobble[which, i, j]
        step, amplitude = half, amplitude / decay**2
    height -= height.min()
    return height / height.max()


@pytest.mark.parametrize("decay", [3, 1.4])
def test_plasma_is_diamond_square(decay):
    source = draw(3)

    def noise(k):
        return source.uniform((3, k, k), f"level {k}")

    got = layers.plasma(noise, 16, decay)
    np.testing.assert_allclose(got[0].numpy(), plasma_by_hand(noise, 16, decay), atol=1e-5)
    assert torch.equal(got.amin((1, 2)), torch.zeros(3))
    assert torch.equal(got.amax((1, 2)), torch.ones(3))


def test_fog_hides_contrast_and_keeps_the_brightest_value():
    x = floats(16, 32, 32)
    out = run("fog", x, 5)
    assert (out.std((1, 2, 3)) < x.std((1, 2, 3)) * 1.2).all()
    assert (out.amax((1, 2, 3)) <= x.amax((1, 2, 3)) + 1e-6).all()
    dark = run("fog", torch.zeros(2, 3, 16, 16), 3)
    assert torch.equal(dark, torch.zeros_like(dark))


def test_ice_textures_differ_tile_and_are_the_same_every_time():
    bank = layers.ice(1.0, torch.device("cpu"))
    assert bank.shape == (5, 3, layers.ICE_SIDE, layers.ICE_SIDE)
    assert 0 <= bank.min() < bank.max() <= 1
    flat = bank.mean(1).flatten(1)
    likeness = torch.corrcoef(flat) - torch.eye(5)
    assert likeness.abs().max() < 0.3
    inside = (bank[..., 1:, :] - bank[..., :-1, :]).abs().mean()
    assert (bank[..., 0, :] - bank[..., -1, :]).abs().mean() < 1.5 * inside
    inside = (bank[..., 1:] - bank[..., :-1]).abs().mean()
    assert (bank[..., 0] - bank[..., -1]).abs().mean() < 1.5 * inside
    layers.ice.cache_clear()
    assert torch.equal(layers.ice(1.0, torch.device("cpu")), bank)


def test_frost_is_the_mix_that_its_setting_says():
    x = floats(20, 40, 40)
    source = draw(20)
    bare = weather.frost(x, (1, 0, 0.2), source)
    ice = weather.frost(torch.zeros_like(x), (0, 1, 0.2), source)
    assert torch.equal(bare, x)
    assert torch.allclose(weather.frost(x, (0.75, 0.45, 0.2), source), 0.75 * x + 0.45 * ice, atol=1e-6)
    bank = layers.ice(0.2, x.device)
    assert ice.mean() == pytest.approx(float(bank.mean()), abs=0.05)


def test_flakes_are_sparse_streaks_that_fall():
    black = torch.zeros(32, 3, 64, 64)
    keep = (*weather.SNOW["cifar"][2][:-1], 1.0)
    out = weather.snow(black, keep, draw(32))[:, 0]
    down = ((out[:, 1:] - out[:, :-1]) ** 2).mean()
    along = ((out[..., 1:] - out[..., :-1]) ** 2).mean()
    assert down < 0.6 * along
    assert 0 < out.mean() < 0.4
    assert torch.allclose(out, out.flip(1, 2), atol=1e-6)  # the two falls are each other turned by 180 degrees


def test_flakes_above_the_threshold_only():
    layer = weather.flake_layer(draw(4).normal((19, 19)), 1.75, 0.55, (32, 32))
    assert layer.shape == (4, 1, 32, 32)
    assert ((layer == 0) | (layer >= 0.55)).all()
    assert 0.02 < (layer > 0).float().mean() < 0.6


def test_snow_whitens():
    x = floats(8, 32, 32)
    assert (run("snow", x, 5).mean((1, 2, 3)) > x.mean((1, 2, 3))).all()


@pytest.mark.parametrize("severity", [1, 4])
def test_no_drop_no_change(severity):
    """A field below the threshold divided by zero in the original."""
    x = floats(2, 32, 32)
    _, _, *rest = weather.SPATTER["cifar"][severity - 1]
    assert torch.equal(weather.spatter_with(torch.zeros(2, 32, 32), x, *rest), x)


def test_mud_is_brown_and_water_adds_light():
    x = torch.full((16, 3, 48, 48), 0.6)
    mud, water = run("spatter", x, 5), run("spatter", x, 3)
    assert (water >= x).all()
    changed = (mud != x).any(1)
    assert 0.02 < changed.float().mean() < 0.9
    darkest = mud.permute(0, 2, 3, 1)[changed].amin(0)
    assert torch.allclose(darkest, torch.tensor([63.0, 42.0, 20.0]) / 255, atol=0.03)


def test_distance_is_euclidean_up_to_its_limit():
    targets = draw(3).uniform((37, 51)) > 0.995
    expected = np.stack([ndimage.distance_transform_edt(~plane) for plane in targets.numpy()])
    got = layers._distance(targets, 20)
    near = torch.from_numpy(expected <= 20)
    assert near.float().mean() > 0.5
    assert torch.allclose(got[near], torch.from_numpy(expected)[near].float(), atol=1e-4)
    assert (got[~near] > 20).all()


@pytest.fixture(scope="module")
def theirs():
    try:  # as it is it cannot be imported: importorskip would skip although it is there
        return mended_library().corruptions
    except UsageError as absent:
        pytest.skip(str(absent))


def numbers(monkeypatch, module, **functions):
    """Let the library draw from ``functions`` instead of numpy."""
    monkeypatch.setattr(module, "np", SimpleNamespace(**{**vars(module.np), "random": SimpleNamespace(**functions)}))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_same_noise_gives_their_fog(theirs, monkeypatch, severity):
    x = floats(1, 50, 64)
    levels = {k: draw(1).uniform((k, k), f"{k}") for k in (1, 2, 4, 8, 16, 32)}
    queue = [part.numpy() for u in levels.values() for part in weather._three(u)[0]]
    numbers(monkeypatch, theirs, uniform=lambda low, high, _shape: low + (high - low) * queue.pop(0))
    expected = theirs.fog(as_pil(x), severity)
    source = given(1, **{f"plasma_{k}": u for k, u in levels.items()})
    got = weather.fog(x, weather.FOG["imagenet"][severity - 1], source).clamp(0, 1) * 255
    np.testing.assert_allclose(got[0].permute(1, 2, 0).numpy(), expected, atol=0.01)
    assert not queue


@pytest.mark.parametrize("severity", [1, 2, 3, 5])
def test_the_same_flakes_give_their_snow(theirs, monkeypatch, severity):
    """Severity 4 apart, whose zoom the library cuts at the top left and we cut in the middle."""
    x = floats(1, 32, 32)
    setting = weather.SNOW["imagenet"][severity - 1]
    side = math.ceil(32 / setting[2])
    start = (32 - side) // 2
    flakes, u = draw(1).normal((side, side), "flakes"), draw(1).uniform((), "angle")
    full = np.zeros((32, 32))
    full[start : start + side, start : start + side] = flakes[0]
    numbers(
        monkeypatch,
        theirs,
        normal=lambda loc, scale, **_: loc + scale * full,
        uniform=lambda low, high: low + (high - low) * float(u),
    )
    expected = theirs.snow(as_pil(x), severity)
    got = weather.snow(x, setting, given(1, flakes=flakes, angle=u)).clamp(0, 1) * 255
    wrong = np.abs(got[0].permute(1, 2, 0).numpy() - expected)
    assert wrong.max() < 1.01  # theirs rounds each of two layers to 8 bits


@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_same_noise_gives_their_spatter(theirs, monkeypatch, severity):
    x, noise = floats(4, 96, 96), draw(4, severity).normal((96, 96))
    got = weather.spatter(x, weather.SPATTER["imagenet"][severity - 1], given(4, noise=noise)).clamp(0, 1) * 255
    for row in range(len(x)):
        numbers(monkeypatch, theirs, normal=lambda loc, scale, row=row, **_: loc + scale * noise[row].double().numpy())
        expected = theirs.spatter(as_pil(x[row : row + 1]), severity)
        wrong = np.abs(got[row].permute(1, 2, 0).numpy() - expected)
        assert wrong.mean() < (0.05 if severity > 3 else 1.0), wrong.mean()


def test_frost_has_the_brightness_of_their_photographs(theirs):
    """Of both scales; texture and place are our own, so that no pixel can be compared."""
    folder = Path(theirs.__file__).parent / "frost"
    files = [next(folder.glob(f"frost{k}.*")) for k in (1, 2, 3, 4, 5)]
    photos = [np.asarray(Image.open(file).convert("RGB")) / 255 for file in files]
    for ice, photo in zip(layers.ice(1.0, torch.device("cpu")), photos, strict=True):
        np.testing.assert_allclose(ice.mean((1, 2)), photo.mean((0, 1)), atol=0.02)
        assert float(ice.mean(0).std()) == pytest.approx(photo.mean(2).std(), rel=0.1)


def as_pil(x):
    return Image.fromarray((x[0] * 255).round().byte().permute(1, 2, 0).numpy())


@pytest.mark.parametrize("setting", [*weather.SPATTER["cifar"][:3], *weather.SPATTER["imagenet"][:3]])
def test_drops_are_lit_as_opencv_lights_them(setting):
    cv2 = pytest.importorskip("cv2")
    mean, deviation, smoothing, threshold, *_ = setting
    liquid = gaussian(mean + deviation * draw(4, setting).normal((96, 96)), smoothing)
    liquid = (torch.where(liquid < threshold, 0, liquid).clamp(0, 1) * 255).floor()
    outline, light = layers._outline(liquid.short()), layers.drops(liquid)
    for row, plane in enumerate(liquid.byte().numpy()):
        edges = cv2.Canny(plane, 50, 150)
        assert (outline[row].numpy() != (edges > 0)).mean() < 0.002
        distance = np.minimum(cv2.distanceTransform(255 - edges, cv2.DIST_L2, 5), 20)
        even = cv2.equalizeHist(cv2.blur(distance, (3, 3)).astype(np.uint8))
        expected = cv2.blur(cv2.filter2D(even, cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])), (3, 3))
        assert np.abs(light[row].numpy() - expected.astype(np.float32)).mean() < 6
        assert np.corrcoef(light[row].flatten(), expected.flatten())[0, 1] > 0.97


def test_equalising_one_level_only_changes_nothing():
    plane = torch.full((1, 4, 4), 7, dtype=torch.int16)
    assert torch.equal(layers._equalise(plane), plane)


def test_equalised_levels_are_spread_evenly():
    plane = torch.arange(16).remainder(4).short().reshape(1, 4, 4)
    assert torch.equal(torch.unique(layers._equalise(plane)), torch.tensor([0, 85, 170, 255]).short())


def test_snow_falls_within_45_degrees_of_straight_down(monkeypatch):
    seen = []

    def spy(x, radius, sigma, degrees):
        seen.append(degrees)
        return x

    monkeypatch.setattr(weather, "streak", spy)
    run("snow", floats(64, 16, 16), 3)
    assert -135 <= float(seen[0].min()) < -120
    assert -60 < float(seen[0].max()) <= -45
    assert math.isclose(float(seen[0].mean()), -90, abs_tol=10)
