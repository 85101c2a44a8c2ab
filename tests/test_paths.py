"""Files in a bucket: whole or not there, copied to a disk where that must be, and what cannot be is one line."""

import importlib.util
import pathlib
import shutil

import numpy as np
import pytest

from shapjax import paths
from shapjax.errors import UserError


def objects(place):
    """Returns the names of what lies at a place in a bucket."""
    return [name.removeprefix(place.removeprefix("gs://") + "/") for name in paths.file_system().find(place)]


@pytest.mark.filterwarnings("ignore:Sending a large body")  # gcsfs does
@pytest.mark.parametrize("size", [10, 6 * 2**20])  # in one request, in several
def test_a_write_that_fails_leaves_the_file_before_and_nothing_else(bucket, refuse, size):
    def write(content):
        with paths.replacing(f"{bucket}/a.bin") as part:
            part.write_bytes(content)
            assert content, "failed before it was written"

    write(b"1" * size)
    with pytest.raises(AssertionError):
        write(b"")
    with refuse("a.bin"), pytest.raises(OSError, match=f"{bucket}/a.bin cannot be written: refused") as error:
        write(b"2" * size)
    assert "\n" not in str(error.value)
    assert (paths.as_path(bucket) / "a.bin").read_bytes() == b"1" * size and objects(bucket) == ["a.bin"]


def test_arrays_and_texts_come_back_as_they_were_written(bucket):
    arrays = {"x": np.random.default_rng(0).normal(size=(50, 3)), "names": np.array(["Zürich"])}
    paths.write_arrays(f"{bucket}/deep/a.npz", arrays)
    for name, array in paths.read_arrays(f"{bucket}/deep/a.npz").items():
        np.testing.assert_array_equal(array, arrays[name])
    paths.write_json(f"{bucket}/a.json", {"name": "Zürich"})
    assert (paths.as_path(bucket) / "a.json").read_text("utf-8") == '{\n  "name": "Zürich"\n}\n'


def test_a_place_is_tried_before_the_work_and_left_as_it_was(bucket, tmp_path):
    paths.require_writable(f"{bucket}/run/config.json")
    assert objects(bucket) == []
    paths.require_writable(tmp_path / "run" / "config.json")
    assert not any((tmp_path / "run").iterdir())
    with pytest.raises(OSError, match="gs://absent/run/.* cannot be written: there is no such bucket"):
        paths.require_writable("gs://absent/run/config.json")


def test_a_copy_follows_what_is_in_the_bucket_and_copies_nothing_twice(bucket):
    for name in ("a/1.txt", "a/2.txt", "b/3.txt"):
        paths.write_text(f"{bucket}/{name}", name)
    copy = pathlib.Path(paths.local(bucket))
    inodes = {name: (copy / name).stat() for name in ("a/1.txt", "a/2.txt")}
    assert {name: (copy / name).read_text() for name in inodes} == {name: name for name in inodes}
    (copy / "a" / "2.txt").write_text("a/9.txt")  # as one that was not copied to its end
    (paths.as_path(bucket) / "b" / "3.txt").unlink()
    paths.write_text(f"{bucket}/c", "new")
    assert pathlib.Path(paths.local(bucket)) == copy and sorted(x.name for x in copy.iterdir()) == ["a", "c"]
    assert (copy / "a" / "2.txt").read_text() == "a/2.txt"
    assert (copy / "a" / "1.txt").stat().st_ctime_ns == inodes["a/1.txt"].st_ctime_ns
    assert paths.local(f"{bucket}/c").read_text() == "new" and paths.local(copy) == paths.as_path(copy)
    for nothing in (f"{bucket}/d", "gs://absent/d"):
        assert not paths.local(nothing).exists()


def test_a_copy_that_the_disk_cannot_hold_is_refused_before_it_is_made(bucket, monkeypatch):
    paths.write_text(f"{bucket}/a.txt", "12345")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 5, 4))
    with pytest.raises(UserError, match="name a larger disk by XDG_CACHE_HOME, or mount the bucket"):
        paths.local(bucket)


def test_an_object_whose_name_leads_out_of_the_copy_is_refused(bucket, monkeypatch):
    found = {f"{bucket.removeprefix('gs://')}/x/../../../out.txt": {"size": 0}}  # which the emulator refuses
    monkeypatch.setattr(paths.file_system(), "find", lambda *_, **__: found)
    with pytest.raises(UserError, match="has a name that no file can have"):
        paths.local(bucket)


def test_a_picture_in_a_bucket_is_the_same_file_however_it_is_spelled(bucket, tmp_path):
    paths.write_text(f"{bucket}/a.png", "")
    (tmp_path / "a.png").touch()
    assert paths.is_same(f"{bucket}/a.png", f"{bucket}//a.png")
    assert paths.is_same(tmp_path / "a.png", f"{tmp_path}//a.png")
    for other in (tmp_path / "a.png", tmp_path / "b.png", f"{bucket}/b.png"):
        assert not paths.is_same(f"{bucket}/a.png", other) and not paths.is_same(other, f"{bucket}/b.png")


@pytest.mark.parametrize("given", ["s3://bucket/run", "gs:/bucket/run", pathlib.Path("gs://bucket/run"), "http://a/b"])
def test_a_path_of_another_kind_makes_no_directory_of_that_name(given):
    with pytest.raises(UserError, match="expected a local path, or the text gs://BUCKET/PATH"):
        paths.as_path(given)


def test_what_is_missing_for_buckets_is_said_in_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="gs://bucket/run lies in a bucket, which takes gcsfs; run `pip install gcsfs`"):
        paths.as_path("gs://bucket/run")


def test_what_another_process_writes_is_seen_at_once(bucket, store):
    place = paths.as_path(bucket)
    paths.write_text(place / "a", "")
    assert [x.name for x in place.iterdir()] == ["a"]
    name = f"{place.name}/b"
    store.create_file("bucket", name, b"", dict(store.get_file_obj("bucket", f"{place.name}/a"), name=name))
    assert sorted(x.name for x in place.iterdir()) == ["a", "b"]
