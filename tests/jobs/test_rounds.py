"""Corrections in place: they go on from what is there, and keep it."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from osvos_tf.errors import InputError
from osvos_tf.jobs import video_job
from osvos_tf.jobs.video_job import VideoJob
from osvos_tf.media.masks import write_labels
from osvos_tf.segmentation import specialist
from support import quick_specialist
from support.world import paint


@pytest.fixture
def trainings(monkeypatch):
    return quick_specialist.install(monkeypatch)


@pytest.fixture
def job(tmp_path, trainings):
    root = paint(tmp_path / "DAVIS")
    frames, masks = (root / part / "480p" / "bear" for part in ("JPEGImages", "Annotations"))
    job = VideoJob(str(frames), (str(masks / "00000.png"),), str(tmp_path / "out" / "bear"))
    video_job.run(job)
    return job


def correction(job, frame, value, name="fixed.png"):
    """Returns a job that gives a frame's mask, a square of that many pixels, and its pixels."""
    mask = np.zeros((48, 80), np.uint8)
    mask[4 : 4 + value, 4 : 4 + value] = 255
    path = pathlib.Path(job.out).parents[1] / name
    Image.fromarray(mask).save(path)
    return dataclasses.replace(job, masks=(f"{frame}:{path}",), specialist=job.out), mask


def content(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def mask_of(folder, name):
    return np.array(Image.open(pathlib.Path(folder, "masks", f"{name}.png")))


def test_each_round_is_kept_and_can_be_gone_back_to(job, trainings):
    out = pathlib.Path(job.out)
    (out / "notes.txt").write_text("mine")
    first = content(out)
    one, drawn = correction(job, 2, 5)
    video_job.run(one)  # without `overwrite`: nothing is lost
    np.testing.assert_array_equal(mask_of(out, "00002"), drawn)
    second = content(out)
    del first[pathlib.Path("notes.txt")]  # it stays where it was laid
    assert content(out / "rounds" / "001") == first
    assert (out / "notes.txt").read_text() == "mine"

    two, again = correction(job, 3, 9, "again.png")
    video_job.run(two)
    assert sorted(path.name for path in (out / "rounds").iterdir()) == ["001", "002"]
    assert content(out / "rounds" / "001") == first
    kept = content(out / "rounds" / "002")
    assert kept.items() <= second.items() and pathlib.Path("specialist.keras") in kept
    np.testing.assert_array_equal(mask_of(out, "00003"), again)
    assert len(specialist.load(out).annotations) == 3 and len(trainings) == 3

    back = dataclasses.replace(job, masks=(), specialist=str(out / "rounds" / "001"))
    video_job.run(back)
    assert len(specialist.load(out).annotations) == 1 and len(trainings) == 3
    np.testing.assert_array_equal(mask_of(out, "00003"), mask_of(out / "rounds" / "001", "00003"))
    assert sorted(path.name for path in (out / "rounds").iterdir()) == ["001", "002", "003"]


def test_a_mask_that_is_known_teaches_nothing_new(job, trainings):
    one, _ = correction(job, 2, 5)
    video_job.run(one)
    video_job.run(one)
    assert len(trainings) == 2 and len(specialist.load(job.out).annotations) == 2


def test_a_correction_that_fails_leaves_all_as_it_was(job, monkeypatch):
    before = content(pathlib.Path(job.out))
    one, _ = correction(job, 2, 5)

    def find(specialist, name, options):
        raise OverflowError

    monkeypatch.setattr(quick_specialist.Quick, "find", find)
    with pytest.raises(OverflowError):
        video_job.run(one)
    assert content(pathlib.Path(job.out)) == before


def test_elsewhere_nothing_is_kept(job, tmp_path):
    one, _ = correction(job, 2, 5)
    video_job.run(dataclasses.replace(one, out=str(tmp_path / "other")))
    assert not (tmp_path / "other" / "rounds").exists()
    three, _ = correction(job, 2, 7)
    with pytest.raises(InputError, match="finished results made with another"):
        video_job.run(dataclasses.replace(three, out=str(tmp_path / "other")))


def test_a_record_that_names_files_elsewhere_brings_none(job, tmp_path):
    (tmp_path / "out" / "secret.txt").write_text("not ours")
    path = pathlib.Path(job.out, "run.json")
    record = json.loads(path.read_text())
    record["contents"] += ["../secret.txt", "/etc/hostname", str(tmp_path / "out/secret.txt")]
    path.write_text(json.dumps(record))
    one, _ = correction(job, 2, 5)
    video_job.run(one)
    kept = [p.name for p in pathlib.Path(job.out, "rounds").rglob("*")]
    assert "specialist.keras" in kept and not {"secret.txt", "hostname"} & set(kept)


def test_a_correction_of_several_says_which(job, trainings, tmp_path):
    """A black and white mask would say that the others are not there."""
    labels = np.zeros((48, 80), np.uint8)
    labels[4:20, 6:22], labels[30:40, 50:60] = 1, 2
    write_labels(tmp_path / "both.png", labels)
    both = dataclasses.replace(
        job, masks=(str(tmp_path / "both.png"),), out=str(tmp_path / "out" / "both")
    )
    video_job.run(both)
    one, _ = correction(both, 2, 5)
    with pytest.raises(InputError, match="black and white, but there are objects 1, 2"):
        video_job.run(one)
    known = np.roll(labels, 3, axis=0)
    write_labels(tmp_path / "again.png", known)
    video_job.run(dataclasses.replace(one, masks=(f"2:{tmp_path / 'again.png'}",)))
    np.testing.assert_array_equal(mask_of(both.out, "00002"), known)


def test_the_number_of_a_single_object_is_kept(job, trainings, tmp_path):
    labels = np.zeros((48, 80), np.uint8)
    labels[4:20, 6:22] = 7
    write_labels(tmp_path / "seven.png", labels)
    seven = dataclasses.replace(
        job, masks=(str(tmp_path / "seven.png"),), out=str(tmp_path / "out" / "seven")
    )
    video_job.run(seven)
    one, drawn = correction(seven, 2, 5)  # black and white
    video_job.run(one)
    assert dict(specialist.load(seven.out).objects) == {7: "object 7"}
    np.testing.assert_array_equal(mask_of(seven.out, "00002"), drawn)
