from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest

from robustbench_df.data import cache as cache_module
from robustbench_df.data import decode as decode_module
from robustbench_df.data.cache import default_cache_dir
from robustbench_df.data.sources import load_images
from robustbench_df.data.stores import FolderStore
from robustbench_df.errors import DataError


@pytest.fixture
def decoding(monkeypatch):
    """Count decoded images."""
    calls = []
    original = decode_module.decode
    monkeypatch.setattr(decode_module, "decode", lambda raw, size: calls.append(1) or original(raw, size))
    return calls


@pytest.fixture
def reading(monkeypatch):
    """Count files read from folders."""
    calls = []
    original = FolderStore.read
    monkeypatch.setattr(FolderStore, "read", lambda self, name: calls.append(name) or original(self, name))
    return calls


def test_second_load_neither_decodes_nor_reads(folder, archive, pair, decoding, reading, monkeypatch):
    monkeypatch.setattr(cache_module, "_TICK_NS", 0)
    for path in (archive(pair), folder(pair)):
        first = load_images(path)
        decoding.clear()
        reading.clear()
        second = load_images(path)
        assert (decoding, reading) == ([], [])
        assert second.fingerprint == first.fingerprint
        assert isinstance(second.data, np.memmap)
        assert not second.data.flags.writeable
        assert second.formats == first.formats == {"PNG": 4}


def test_touching_moving_and_relabelling_never_decode_but_new_bytes_do(folder, pair, make_png, decoding):
    root = folder(pair)
    first = load_images(root)
    decoding.clear()
    for name in pair:
        os.utime(root / name, ns=(1, 1))
    assert load_images(root).fingerprint == first.fingerprint
    load_images(root, layout="unlabelled")
    moved = root.rename(root.with_name("moved"))
    assert load_images(moved).fingerprint == first.fingerprint
    assert decoding == []
    (moved / "real/1.png").write_bytes(make_png(99))
    assert load_images(moved).fingerprint != first.fingerprint
    assert decoding


def test_fresh_files_are_not_trusted_to_a_coarse_clock(folder, pair, make_png, monkeypatch):
    """A change within the clock's tick leaves every size and time as it was."""
    monkeypatch.setattr(FolderStore, "signature", lambda *_: "as before")
    monkeypatch.setattr(cache_module, "_TICK_NS", 60 * 10**9)
    root = folder(pair)
    first = load_images(root)
    (root / "real/1.png").write_bytes(make_png(99))
    assert load_images(root).fingerprint != first.fingerprint


def test_sizes_have_their_own_entries(folder, pair):
    root = folder(pair)
    assert [load_images(root, size=s).size for s in (None, 4, 6, 4)] == [(8, 8), (4, 4), (6, 6), (4, 4)]


def test_pixels_follow_their_names_past_unreadable_images_and_chunks(folder, make_png, monkeypatch):
    monkeypatch.setattr(cache_module, "_CHUNK", 3)
    files = {f"{c}/{k}.png": make_png(1000 * (c == "fake") + k) for c in ("real", "fake") for k in range(20)}
    bad = ("fake/0.png", "fake/7.png", "real/19.png")
    images = load_images(folder(files | dict.fromkeys(bad, b"nonsense")), max_bad=0.2, workers=3)
    assert len(images) == 37
    assert [f.where for f in images.findings] == list(bad)
    assert not set(bad) & set(images.ids)
    for k, name in enumerate(images.ids):
        expected, *_ = decode_module.decode(files[name])
        assert np.array_equal(images.data[k], expected)
        assert images.hashes[k] == cache_module.pixel_hash(expected)


def test_sizes_before_scaling_are_kept_and_without_them_an_entry_is_decoded_again(folder, make_png, cache, decoding):
    files = {f"{c}/{k}.png": make_png(k, (8 + k, 9)) for c in ("real", "fake") for k in range(3)}
    root = folder(files | {"fake/1.png": b"nonsense"})
    wanted = ["8×9", "10×9", "8×9", "9×9", "10×9"]
    assert load_images(root, size=4, max_bad=1).sizes.tolist() == wanted
    decoding.clear()
    again = load_images(root, size=4, max_bad=1)
    assert (again.sizes.tolist(), decoding) == (wanted, [])
    assert again.subset(np.array([4, 0])).sizes.tolist() == ["10×9", "8×9"]
    (about,) = cache.glob("*/about.json")
    about.write_text(json.dumps({k: v for k, v in json.loads(about.read_text()).items() if k != "sizes"}))
    assert load_images(root, size=4, max_bad=1).sizes.tolist() == wanted
    assert decoding


def test_a_damaged_entry_is_rebuilt(folder, pair, cache, decoding):
    root = folder(pair)
    first = load_images(root)
    for hurt in ("pixels.npy", "about.json", "hashes.npy"):
        (entry,) = (p for p in cache.iterdir() if p.name != "index")
        (entry / hurt).write_bytes(b"x")
        decoding.clear()
        assert load_images(root).fingerprint == first.fingerprint
        assert decoding


def test_nothing_unfinished_is_left_behind(folder, pair, make_png, cache):
    with pytest.raises(DataError, match="different sizes"):
        load_images(folder(pair | {"real/11.png": make_png(1, (9, 9))}))
    assert [p.name for p in cache.iterdir()] == ["index"]


def test_leftovers_of_dead_processes_go(folder, pair, cache):
    (cache / "unfinished-old").mkdir(parents=True)
    (cache / "unfinished-new").mkdir()
    os.utime(cache / "unfinished-old", (1, 1))
    load_images(folder(pair))
    assert {p.name for p in cache.glob("unfinished-*")} == {"unfinished-new"}


def test_a_repaired_archive_is_decoded_again(archive, pair):
    path = archive(pair)
    sound = path.read_bytes()
    start = sound.index(pair["real/1.png"]) + 60
    path.write_bytes(sound[:start] + bytes(8) + sound[start + 8 :])
    assert len(load_images(path, max_bad=0.5)) == 3
    path.write_bytes(sound)  # the archive's directory, and so its checksums, are the same as before
    os.utime(path, ns=(5, 5))
    assert len(load_images(path)) == 4


def test_files_that_change_while_read_stop_the_build(folder, pair, monkeypatch, make_png):
    root = folder(pair)
    original = decode_module.decode

    def meddle(raw, size):
        (root / "real/1.png").write_bytes(make_png(77))
        return original(raw, size)

    monkeypatch.setattr(decode_module, "decode", meddle)
    with pytest.raises(DataError, match="changed while they were read; run again"):
        load_images(root)


def test_two_processes_can_build_at_once(archive, make_png, cache):
    path = archive({f"{c}/{k}.png": make_png(k) for c in ("real", "fake") for k in range(150)})
    code = f"from robustbench_df.data.sources import load_images; print(load_images({str(path)!r}).fingerprint)"
    runs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert len([p for p in cache.iterdir() if p.name != "index"]) == 1


def test_losing_the_race_uses_the_winners_entry(folder, pair, cache, monkeypatch):
    root = folder(pair)
    original = cache_module._publish

    def beaten(scratch, home):
        shutil.copytree(scratch, home)
        (home / "won").touch()
        return original(scratch, home)

    monkeypatch.setattr(cache_module, "_publish", beaten)
    assert len(load_images(root)) == 4
    assert len(list(cache.glob("*/won"))) == 1


def test_full_disks_and_unwritable_caches_are_one_line(folder, pair, monkeypatch, tmp_path):
    root = folder(pair)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot use the image cache .*set RDF_CACHE to a writable folder"):
        load_images(root, cache_dir=tmp_path / "file")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 0))
    with pytest.raises(DataError, match="give a smaller --size or set RDF_CACHE to a larger disk"):
        load_images(root)


def test_default_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("RDF_CACHE")
    assert default_cache_dir() == tmp_path / "xdg" / "robustbench_df"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "robustbench_df"


def test_an_entry_that_has_just_appeared_is_not_removed(folder, pair, monkeypatch):
    root = folder(pair)

    def removed(*_args, **_options):
        raise AssertionError("another process may have put it there a moment ago")

    original = cache_module._publish

    def guarded(scratch, home):
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", removed)
            return original(scratch, home)

    monkeypatch.setattr(cache_module, "_publish", guarded)
    assert len(load_images(root)) == 4
