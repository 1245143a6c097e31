"""What was not saved with results is made of their masks: nothing is learned again."""

import dataclasses
import json
import pathlib

import pytest

from osvos_tf import results
from osvos_tf.errors import InputError
from osvos_tf.jobs import additions, video_job
from osvos_tf.jobs.video_job import VideoJob
from osvos_tf.media.frames import open_frames
from osvos_tf.segmentation.options import LearnOptions
from support import quick_specialist


@pytest.fixture
def trainings(monkeypatch):
    return quick_specialist.install(monkeypatch)


@pytest.fixture
def job(fake_davis, tmp_path, trainings):
    """bear, whose masks are there and nothing beside them."""
    (tmp_path / "parent.keras").write_bytes(b"weights of a parent")
    job = VideoJob(
        frames=str(fake_davis / "JPEGImages/480p/bear"),
        masks=(str(fake_davis / "Annotations/480p/bear/00000.png"),),
        out=str(tmp_path / "results" / "bear"),
        learn=LearnOptions(parent=str(tmp_path / "parent.keras")),
        save=(),
    )
    video_job.run(job)
    (pathlib.Path(job.out) / "notes.txt").write_text("mine")
    return job


def saving(job, *kinds, **changes):
    return dataclasses.replace(job, save=kinds, **changes)


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in pathlib.Path(folder).rglob("*")
        if path.is_file() and path.name != "run.json"
    }


EVERYTHING = tuple(kind for kind in additions.outputs.KINDS if kind != "probabilities")


def test_files_are_those_that_a_run_leaves(job, trainings, tmp_path):
    said, steps = [], []
    before = content(job.out)
    record = video_job.run(
        saving(job, *EVERYTHING), on_progress=steps.append, on_resume=said.append
    )
    assert len(trainings) == 1 and said[0].startswith("The masks are there already; ")
    assert {step.what for step in steps} == {"save"} and steps[-1].done == 4
    found = content(job.out)
    assert {name: found[name] for name in before} == before
    whole = saving(job, *EVERYTHING, out=str(tmp_path / "other" / "bear"))
    wanted_record = video_job.run(whole)
    wanted = content(whole.out)
    assert found.keys() == wanted.keys() | {"notes.txt"}
    for name in wanted:
        if not name.endswith((".mp4", ".webm", ".mov", ".keras", "specialist.json")):
            assert found[name] == wanted[name], name
    assert record[results.WORK] == wanted_record[results.WORK]
    assert record["found"] == wanted_record["found"]


def test_the_first_command_still_finds_its_results(job, trainings):
    video_job.run(saving(job, "coco"))
    assert job.find_fault() is None and saving(job, "coco").find_fault() is None
    before = content(job.out)
    video_job.run(job)
    video_job.run(saving(job, "labels"))
    assert content(job.out).keys() > before.keys() and "coco.json" in before
    assert len(trainings) == 1
    (pathlib.Path(job.out) / "masks" / "00002.png").unlink()  # made again, with all that was added
    video_job.run(job)
    assert content(job.out).keys() > before.keys() and len(trainings) == 1


def test_what_masks_do_not_tell_is_refused(job):
    before = content(job.out)
    for work in (
        lambda: video_job.run(saving(job, "coco", "probabilities")),
        lambda: additions.add(pathlib.Path(job.out), open_frames(job.frames), ["probabilities"]),
    ):
        with pytest.raises(InputError, match=r"[Nn]ame another folder"):
            work()
    assert content(job.out) == before
    video_job.run(saving(job, "probabilities", overwrite=True))
    assert "probabilities/00000.png" in content(job.out)


def test_results_of_another_video_are_not_added_to(job):
    out = pathlib.Path(job.out)
    record = json.loads((out / "run.json").read_text())
    record["work"]["frames"] += "0"
    (out / "run.json").write_text(json.dumps(record))
    assert saving(job, "coco").addable() == ()
    with pytest.raises(InputError, match="have changed"):
        additions.add(out, open_frames(job.frames), ["coco"])
    with pytest.raises(InputError, match="holds no finished results"):
        additions.add(out / "masks", open_frames(job.frames), ["coco"])


def test_a_failure_leaves_results_as_they_were(job, monkeypatch):
    before = content(job.out)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(additions.outputs.annotation_writer, "areas_of", fail)
    with pytest.raises(OSError, match="No space left"):
        video_job.run(saving(job, "coco"))
    assert content(job.out) == before
    assert [path.name for path in pathlib.Path(job.out).parent.iterdir()] == ["bear"]
