from __future__ import annotations

import os
import tracemalloc
import zipfile

import pytest

from robustbench_df.data.archive import ZipStore, safe_name
from robustbench_df.data.stores import FolderStore, Unreadable, natural_sort
from robustbench_df.errors import DataError


def test_natural_order_compares_numbers_of_any_length():
    huge = "9" * 5000  # beyond Python's limit for int()
    names = ["10.png", "2.png", f"{huge}.png", "1.png", "02.png", "a/3.png", "a/20.png"]
    assert natural_sort(names) == ["1.png", "02.png", "2.png", "10.png", f"{huge}.png", "a/3.png", "a/20.png"]


def test_folder_and_zip_list_the_same_names_without_junk(folder, archive):
    files = {"a/2.png": b"x", "a/10.png": b"y", "__MACOSX/a/._2.png": b"", "a/.DS_Store": b"", "Thumbs.db": b""}
    on_disk, packed = FolderStore.scan(folder(files)), ZipStore.open(archive(files))
    assert list(on_disk.names) == list(packed.names) == ["a/2.png", "a/10.png"]
    assert on_disk.read("a/10.png") == packed.read("a/10.png") == b"y"
    assert list(packed.within("a").names) == list(on_disk.within("a").names) == ["2.png", "10.png"]
    assert packed.within("a").read("2.png") == on_disk.within("a").read("2.png") == b"x"
    packed.close()


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/etc/x.png", "C:/x.png", "..\\x.png", "\\x.png"])
def test_zip_entries_that_escape_are_findings(archive, name):
    store = ZipStore.open(archive({name: b"x", "real/1.png": b"y"}))
    assert list(store.names) == ["real/1.png"]
    assert [(f.kind, f.where) for f in store.findings] == [("unsafe-path", name)]
    assert safe_name(name) is None
    store.close()


def test_zip_packed_on_windows_has_folders(archive):
    store = ZipStore.open(archive({"real\\1.png": b"y"}))
    assert list(store.names) == ["real/1.png"]
    assert store.read("real/1.png") == b"y"
    store.close()


def test_entry_that_fails_its_checksum_is_unreadable(archive):
    path = archive({"real/1.png": b"SOMETHING", "real/2.png": b"fine"})
    path.write_bytes(path.read_bytes().replace(b"SOMETHING", b"SOMETHInG"))
    store = ZipStore.open(path)
    with pytest.raises(Unreadable, match="CRC") as caught:
        store.read("real/1.png")
    assert caught.value.damaged
    assert store.read("real/2.png") == b"fine"
    store.close()


def test_encrypted_and_truncated_archives_are_one_line(archive):
    path = archive({"real/1.png": b"x" * 1000})
    raw = bytearray(path.read_bytes())
    central = raw.rindex(b"PK\x01\x02")
    encrypted = raw.copy()
    encrypted[central + 8] |= 1
    path.write_bytes(encrypted)
    with pytest.raises(DataError, match="password-protected; unpack it") as caught:
        ZipStore.open(path)
    assert "\n" not in str(caught.value)
    path.write_bytes(raw[:500])
    with pytest.raises(DataError, match="damaged or incomplete"):
        ZipStore.open(path)


def test_giant_files_are_refused_before_they_are_read(folder, archive, monkeypatch):
    monkeypatch.setattr("robustbench_df.data.stores.MAX_FILE_BYTES", 100)
    files = {"1.png": b"x" * 101}
    packed = ZipStore.open(archive(files))
    for store in (FolderStore.scan(folder(files)), packed):
        with pytest.raises(Unreadable) as caught:
            store.read("1.png")
        assert caught.value.kind == "too-large"
    packed.close()


def test_an_entry_that_holds_more_than_it_declares_is_cut_off_and_caught(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("1.png", bytes(8_000_000))
    raw = path.read_bytes()
    path.write_bytes(raw.replace((8_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    store = ZipStore.open(path)
    tracemalloc.start()
    with pytest.raises(Unreadable):
        store.read("1.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    store.close()


def test_links_are_followed_but_not_in_circles(folder, tmp_path):
    root = folder({"a/1.png": b"x"})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "2.png").write_bytes(b"y")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "c").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "up").symlink_to(root)
    (root / "gone.png").symlink_to(root / "nowhere")
    os.mkfifo(root / "pipe.png")
    store = FolderStore.scan(root)
    assert list(store.names) == ["a/1.png", "b/2.png", "c/2.png", "gone.png", "pipe.png"]
    for name, kind in (("gone.png", "missing-image"), ("pipe.png", "unreadable")):
        with pytest.raises(Unreadable) as caught:
            store.read(name)
        assert caught.value.kind == kind


def test_signature_sees_a_touch_and_content_only_the_bytes(folder):
    root = folder({"1.png": b"x", "2.png": b"y"})
    store = FolderStore.scan(root)
    signature, content = store.signature(store.names), store.content(store.names)
    os.utime(root / "1.png", ns=(1, 1))
    assert store.signature(store.names) != signature
    assert store.content(store.names) == content
    (root / "1.png").write_bytes(b"z")
    assert store.content(store.names) != content
