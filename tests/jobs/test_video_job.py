"""One video's job: what counts as the same work, what is whole, what a killed run leaves."""

import dataclasses
import io
import json
import pathlib
import re

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from osvos_tf import results
from osvos_tf.errors import InputError
from osvos_tf.jobs import given_masks, identity, remarks, video_job
from osvos_tf.jobs.video_job import VideoJob
from osvos_tf.media.masks import read_mask, write_mask
from osvos_tf.media.video_writer import write_video
from osvos_tf.network.parents import PARENTS
from osvos_tf.segmentation.options import LearnOptions, SegmentOptions
from support import quick_specialist

NAMES = ["00000", "00001", "00002", "00003"]
LEARNED = "The object has been learned before; that specialist is used."


@pytest.fixture
def job(fake_davis, tmp_path):
    """bear, annotated in two frames."""
    parent = tmp_path / "parent.keras"
    parent.write_bytes(b"weights of a parent")
    masks = fake_davis / "Annotations/480p/bear"
    return VideoJob(
        frames=str(fake_davis / "JPEGImages/480p/bear"),
        masks=(str(masks / "00000.png"), f"00002:{masks / '00002.png'}"),
        out=str(tmp_path / "results" / "bear"),
        learn=LearnOptions(parent=str(parent), updates=3),
        save=("overlay", "probabilities"),
    )


@pytest.fixture
def trainings(monkeypatch):
    """Specialists that learn in no time; how often they did."""
    return quick_specialist.install(monkeypatch)


@pytest.fixture
def out(job, trainings):
    """bear's finished results."""
    video_job.run(job)
    assert len(trainings) == 1
    return pathlib.Path(job.out)


def change(job, **values):
    """The job with some options changed."""
    parts = {}
    for part in ("learn", "segment"):
        options = getattr(job, part)
        own = {n: v for n, v in values.items() if hasattr(options, n) and n not in ("frames",)}
        parts[part] = dataclasses.replace(options, **own)
        values = {name: value for name, value in values.items() if name not in own}
    return dataclasses.replace(job, **parts, **values)


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def decoded(video):
    """A video's frames. Files of the same pictures have differed in length by 8 bytes.

    Why is not known: 300 encodings side by side had the same bytes.
    """
    with av.open(io.BytesIO(video)) as source:
        return np.stack([np.float32(frame.to_ndarray(format="rgb24")) for frame in source.decode()])


# --- a job as a value -----------------------------------------------------------------------------

LEARN = st.builds(
    LearnOptions,
    parent=st.text(min_size=1),
    updates=st.none() | st.integers(1, 10**6),
    budget=st.none() | st.floats(0.001, 1e6),
    until_learned=st.none() | st.booleans(),
    height=st.none() | st.integers(1, 5000),
    crop=st.none() | st.floats(0.1, 1),
    object=st.none() | st.integers(1, 254) | st.lists(st.integers(1, 254)),
    seed=st.integers(),
)
SEGMENT = st.builds(
    SegmentOptions, follow=st.booleans(), threshold=st.floats(0, 1), snap=st.just("none")
)


@given(
    st.builds(
        VideoJob,
        frames=st.text(),
        masks=st.lists(st.text()).map(tuple),
        out=st.text(),
        learn=LEARN,
        segment=SEGMENT,
        save=st.sampled_from([(), ("overlay",), ("alpha", "coco")]),
        overwrite=st.booleans(),
    )
)
def test_a_job_travels_as_json(job):
    assert VideoJob.from_json(json.loads(json.dumps(job.as_json()))) == job


def test_a_job_whose_options_do_not_fit_is_refused(job):
    value = job.as_json()
    value["learn"]["updates"] = -1
    with pytest.raises(InputError, match="`updates` must be 0 or more"):
        VideoJob.from_json(value)


def test_what_is_a_file_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert given_masks.split("00002:a.png") == ("00002", "a.png")
    assert given_masks.split("a.png") == (None, "a.png")
    assert given_masks.split("a:b:c.png") == ("a:b", "c.png")
    (tmp_path / "00002:a.png").touch()
    assert given_masks.split("00002:a.png") == (None, "00002:a.png")


# --- whole, or not --------------------------------------------------------------------------------


def test_whole_results(job, out, trainings):
    assert job.find_fault() is None
    assert {path.name for path in out.iterdir()} == {
        "annotations", "masks", "overlay.mp4", "probabilities", "run.json", "specialist.json",
        "specialist.keras",
    }  # fmt: skip
    before = content(out)
    record = video_job.run(job)
    assert content(out) == before and len(trainings) == 1
    assert record == json.loads((out / "run.json").read_text())
    assert (record["frames"], record["size"], record["updates"]) == (4, [48, 80], 2)
    assert record["losses"] == [[1, 0.5], [2, 0.25]]
    assert record["flags"]["out"] == str(out) and record["flags"]["updates"] == 3
    assert list(out.parent.iterdir()) == [out]


def test_nothing_is_no_fault_worth_a_word(job):
    assert job.find_fault() == ""
    pathlib.Path(job.out).mkdir(parents=True)
    assert job.find_fault() == ""


@pytest.mark.parametrize("kind", ["masks", "probabilities"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "3 of 4 .*00002.png is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:60]), "00002.png' cannot be read"),
        (lambda path: path.write_bytes(b""), "00002.png' cannot be read"),
        (lambda path: write_mask(path, np.eye(3)), "3x3"),
        (lambda path: path.rename(path.with_name("x.png")), "00002.png is missing"),
    ],
)
def test_damaged_results_are_made_again_by_the_specialist_that_lies_there(
    job, out, trainings, kind, damage, message
):
    before = content(out)
    damage(out / kind / "00002.png")
    assert re.search(message, job.find_fault())
    said = []
    video_job.run(job, on_resume=said.append)
    assert said == [LEARNED] and len(trainings) == 1
    found = content(out)
    assert found.pop(f"{kind}/x.png", None) in (None, before[f"{kind}/00002.png"])
    assert found.keys() == before.keys()
    for name in before.keys() - {"run.json", "overlay.mp4"}:
        assert found[name] == before[name]
    apart = np.abs(decoded(found["overlay.mp4"]) - decoded(before["overlay.mp4"]))
    assert apart.mean(axis=(1, 2, 3)).max() < 1
    assert job.find_fault() is None


def test_what_is_no_mask_of_ours_is_no_damage(job, out):
    (out / "masks" / "x.png").write_bytes(b"mine")
    (out / "masks" / "00002.corrected.png").write_bytes(b"mine")
    assert job.find_fault() is None


def test_a_damaged_specialist_is_learned_again(job, out, trainings):
    (out / "masks" / "00002.png").unlink()
    (out / "specialist.keras").write_bytes(b"damaged")
    video_job.run(job)
    assert len(trainings) == 2 and job.find_fault() is None
    assert (out / "specialist.keras").read_bytes().startswith(b"weights")


def test_results_without_a_record(job, out):
    before = content(out)
    for text in ("{", "[1]", "{}", None):
        (out / "run.json").unlink()
        if text is not None:
            (out / "run.json").write_text(text)
        assert job.find_fault() == "no run.json that can be read"
        for job_ in (job, change(job, overwrite=True)):
            with pytest.raises(InputError, match=rf"'{out}' holds what this command did not make"):
                video_job.run(job_)
        (out / "run.json").touch()
    assert content(out) == {**before, "run.json": b""}


def test_results_of_other_flags_networks_masks(job, out, trainings):
    assert change(job, updates=4).find_fault() == "made with another updates"
    assert change(job, out=job.out + "/../bear", overwrite=True).find_fault() is None
    parent, mask = pathlib.Path(job.learn.parent), job.masks[1].partition(":")[2]
    parent.write_bytes(b"new weights")
    assert job.find_fault() == "made with another parent"
    parent.write_bytes(b"weights of a parent")
    assert job.find_fault() is None
    (parent.parent / "same.keras").write_bytes(b"weights of a parent")
    assert change(job, parent=str(parent.parent / "same.keras")).find_fault() is None
    write_mask(mask, np.eye(48, 80))
    assert job.find_fault() == "made with another mask"
    before = content(out)
    with pytest.raises(InputError, match=rf"'{out}' holds .* another mask\. .*`overwrite`"):
        video_job.run(job)
    assert content(out) == before
    video_job.run(change(job, overwrite=True))
    assert len(trainings) == 2 and job.find_fault() is None


@pytest.mark.parametrize("what", ["one less", "one more", "another first", "elsewhere"])
def test_results_of_another_video(job, out, trainings, what):
    frames = pathlib.Path(job.frames)
    if what == "one less":
        (frames / "00003.jpg").unlink()
    elif what == "one more":
        (frames / "00004.jpg").write_bytes((frames / "00003.jpg").read_bytes())
    elif what == "another first":
        cv2.imwrite(str(frames / "00000.jpg"), np.zeros((48, 80, 3), np.uint8))
    else:
        frames = frames.rename(frames.with_name("cat"))
        job = dataclasses.replace(job, frames=str(frames))
    assert job.find_fault() == "made with another frames"
    with pytest.raises(InputError, match=r"another frames.*`overwrite`"):
        video_job.run(job)
    video_job.run(change(job, overwrite=True))
    assert len(trainings) == 2 and job.find_fault() is None


def test_what_is_no_frame_does_not_count(job, out):
    frames = pathlib.Path(job.frames)
    (frames / "notes.txt").write_text("mine")
    (frames / ".00000.jpg").write_text("mine")
    (frames / "link.jpg").symlink_to("nowhere")
    assert job.find_fault() is None


OTHERS = {  # each option with another value than the default
    **{"recipe": "plain", "updates": 7, "budget": 9.0, "until_learned": False, "heads": "all"},
    **{
        "height": 24,
        "crop": 0.5,
        "views": 3,
        "object": 1,
        "mask_threshold": 0.4,
        "precision": "float32",
        "seed": 5,
    },
    **{"follow": False, "adapt": False, "smooth": False, "threshold": 0.5, "snap": "none"},
    **{"contour_threshold": 0.3, "parent": "random", "save": ()},
}


def test_all_options_decide_over_results(job):
    fields = [*dataclasses.fields(LearnOptions), *dataclasses.fields(SegmentOptions)]
    assert OTHERS.keys() - {"save"} == {field.name for field in fields} - {
        "frozen", "contour"  # go with others
    }  # fmt: skip
    for name, value in OTHERS.items():
        other = change(job, **{name: value})
        assert other != job
        assert set(results._differences(job.work(), other.work())) == {name}
    frozen = change(job, views=3, frozen=1)
    assert set(results._differences(job.work(), frozen.work())) == {"views", "frozen"}
    contour = change(job, snap="contour", contour=job.learn.parent)
    assert set(results._differences(job.work(), contour.work())) == {"snap", "contour"}


def test_the_parent_of_the_package_counts_by_its_content(job, out, monkeypatch):
    monkeypatch.setitem(PARENTS, "compact", pathlib.Path(job.learn.parent))
    assert change(job, parent="compact").find_fault() is None


def test_results_of_a_video_file(job, trainings, tmp_path):
    clip = tmp_path / "clip.mp4"

    def write(shade):
        with write_video(clip, (48, 80)) as writer:
            for number in range(4):
                writer.write(np.full((48, 80, 3), shade + number, np.uint8))

    write(10)
    job = dataclasses.replace(job, frames=str(clip))
    video_job.run(job)
    assert job.find_fault() is None
    (pathlib.Path(job.out) / "masks/00003.png").unlink()
    assert "3 of 4" in job.find_fault()
    write(90)
    assert job.find_fault() == "made with another frames"


# --- what a killed run leaves ---------------------------------------------------------------------


def killed_while_masks_are_written(job, monkeypatch):
    """Runs a job as far as its third mask."""

    def find(specialist, name, options):
        if name == "00003":
            raise OverflowError
        return specialist.annotations[0].mask == 1

    with monkeypatch.context() as patched, pytest.raises(OverflowError):
        patched.setattr(quick_specialist.Quick, "find", find)
        video_job.run(job)
    return pathlib.Path(job.out).with_name(".bear.unfinished")


def test_a_killed_run_goes_on_from_its_specialist(job, trainings, monkeypatch):
    draft = killed_while_masks_are_written(job, monkeypatch)
    assert not pathlib.Path(job.out).exists()
    learned = (draft / "specialist.keras").stat()
    (draft / "masks" / "of_another_run.png").write_bytes(b"stale")
    said, steps = [], []
    record = video_job.run(job, on_resume=said.append, on_progress=steps.append)
    assert said == [LEARNED] and len(trainings) == 1
    assert not [step for step in steps if step.what == "learn"]
    out = pathlib.Path(job.out)
    assert (out / "specialist.keras").stat() == learned
    assert record["updates"] == 2 and record["losses"] == [[1, 0.5], [2, 0.25]]
    assert sorted(path.stem for path in (out / "masks").iterdir()) == NAMES
    assert job.find_fault() is None and list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("name", ["specialist.keras", "specialist.json", "annotations"])
def test_what_is_damaged_of_it_is_learned_again(job, trainings, monkeypatch, name):
    draft = killed_while_masks_are_written(job, monkeypatch)
    if name == "annotations":
        (draft / name / "00000.frame.png").write_bytes(b"damaged")
    else:
        (draft / name).write_text("damaged")
    said = []
    video_job.run(job, on_resume=said.append)
    assert said == [] and len(trainings) == 2 and job.find_fault() is None


def test_a_specialist_of_other_frames_is_not_used(job, trainings, monkeypatch):
    """Not even where the frames' names and sizes are the same."""
    monkeypatch.setattr(identity, "of_frames", lambda path: path)
    killed_while_masks_are_written(job, monkeypatch)
    frame = pathlib.Path(job.frames, "00002.jpg")
    cv2.imwrite(str(frame), cv2.imread(str(frame))[::-1])
    video_job.run(job)
    assert len(trainings) == 2


def test_other_work_learns_anew(job, trainings, monkeypatch):
    killed_while_masks_are_written(job, monkeypatch)
    video_job.run(change(job, seed=1))
    assert len(trainings) == 2
    out = pathlib.Path(job.out)
    assert list(out.parent.iterdir()) == [out]


def test_an_earlier_result_stands_until_the_new_one_is_whole(job, out, trainings, monkeypatch):
    before = content(out)
    other = change(job, seed=1, overwrite=True)
    killed_while_masks_are_written(other, monkeypatch)
    assert content(out) == before
    video_job.run(other)
    assert len(trainings) == 2 and other.find_fault() is None


def test_two_runs_at_once(job, out):
    with results.draft(job.out, job.work()):
        with pytest.raises(InputError, match=rf"Another run is writing to '{out}'"):
            video_job.run(change(job, seed=1, overwrite=True))
        video_job.run(job)  # these results are whole


# --- masks that are given -------------------------------------------------------------------------


@pytest.mark.parametrize("follow", [True, False])
def test_given_masks_come_back_as_they_were_given(job, parent, follow):
    """By a real network, which would say something else."""
    mask = np.zeros((48, 80), np.uint8)
    mask[5:9, 60:70] = 1  # nothing is there
    path = pathlib.Path(job.out).parent.with_name("drawn.png")
    Image.fromarray(mask).save(path)  # 0 and 1
    job = dataclasses.replace(job, masks=(*job.masks, f"3:{path}"))
    job = change(job, parent=str(parent), updates=0, precision="float32", follow=follow)
    record = video_job.run(job)
    for name, given_ in zip(("00000", "00002", "00003"), job.masks, strict=True):
        found = pathlib.Path(job.out, "masks", f"{name}.png")
        expected = read_mask(given_masks.split(given_)[1])
        np.testing.assert_array_equal(read_mask(found), expected)
        said = record["found"][name]
        assert (said["area"], said["confidence"]) == (expected.sum(), 1.0)
        probability = np.array(Image.open(found.parents[1] / "probabilities" / found.name))
        np.testing.assert_array_equal(probability, expected * 255)
    assert record["found"]["00003"]["fit"] == 0
    assert any("Frame 00003: what is found there agrees by 0%" in r for r in record["remarks"])


def test_a_mask_that_was_corrected_in_the_results_comes_back_to_the_byte(job, out):
    corrected = out / "masks" / "00001.png"
    Image.fromarray(np.eye(48, 80, dtype=np.uint8) * 255).save(corrected, optimize=True)
    before = corrected.read_bytes()
    job = dataclasses.replace(job, masks=(*job.masks, f"1:{corrected}"), overwrite=True)
    video_job.run(job)
    assert corrected.read_bytes() == before and job.find_fault() is None


@pytest.mark.parametrize("where", ["another frame's", "another name", "another kind", "link"])
def test_a_mask_that_would_be_written_over_is_refused(job, out, where):
    path = out / "masks" / "00001.png"
    given_ = f"00001:{path}"
    if where == "another frame's":
        given_ = f"00003:{path}"
    elif where == "another name":
        path = path.rename(path.with_name("corrected.png"))
        given_ = f"00001:{path}"
    elif where == "another kind":  # we would write it as another file
        Image.fromarray(np.eye(48, 80, dtype=np.uint8)).save(path)
    else:
        link = out.parent / "link.png"
        link.symlink_to(out / "masks" / "00002.png")
        given_ = f"00001:{link}"
    before = content(out)
    job = dataclasses.replace(job, masks=(*job.masks[:1], given_), overwrite=True)
    with pytest.raises(InputError, match=rf"lies in '{out}'"):
        video_job.run(job)
    assert content(out) == before


@pytest.mark.parametrize("name", ["frames", "parent", "contour"])
def test_other_inputs_among_the_results_are_refused(job, out, name):
    before = content(out)
    value = str(out / {"frames": "masks", "parent": "specialist.keras"}.get(name, "overlay.mp4"))
    changes = {"snap": "contour"} if name == "contour" else {}
    if name == "frames":
        job = dataclasses.replace(job, frames=value, overwrite=True)
    else:
        job = change(job, **{name: value}, **changes, overwrite=True)
    with pytest.raises(InputError, match=rf"'{value}' lies in '{out}'"):
        video_job.run(job)
    assert content(out) == before


@pytest.mark.parametrize("again", ["", "0:", "00000:"])
def test_the_same_mask_twice(job, trainings, again):
    """They are two objects, of which one lies behind the other."""
    job = dataclasses.replace(job, masks=(*job.masks[:1], f"{again}{job.masks[0]}"))
    with pytest.raises(InputError, match="is covered wholly by those after it"):
        video_job.run(job)
    assert not pathlib.Path(job.out).parent.exists()


# --- what was found -------------------------------------------------------------------------------


def test_frames_without_the_object_are_said(job, trainings, monkeypatch):
    frames = pathlib.Path(job.frames)
    for number in range(4, 12):
        (frames / f"{number:05d}.jpg").write_bytes((frames / "00003.jpg").read_bytes())
    empty, small = {1, 4, 5, 6, 9}, {7, 11}

    def find(specialist, name, options):
        mask = specialist.annotations[0].mask == 1
        if int(name) in empty:
            return np.zeros_like(mask)
        return mask & (np.cumsum(mask).reshape(mask.shape) <= (25 if int(name) in small else 26))

    monkeypatch.setattr(quick_specialist.Quick, "find", find)
    record = video_job.run(job)
    assert record["remarks"] == [
        "No object was found in 5 of 12 frames: 00001, 00004 to 00006, 00009. If it is there, "
        "correct one of these masks and give it as well.",
        "Next to nothing was found in 2 of 12 frames: 00007, 00011. If it is there, "
        "correct one of these masks and give it as well.",
    ]
    assert record == json.loads(pathlib.Path(job.out, "run.json").read_text())
    areas = {name: found["area"] for name, found in record["found"].items()}
    assert areas["00000"] == 256 and areas["00003"] == 26  # a tenth of what was given
    assert {int(name) for name, area in areas.items() if area == 0} == empty
    assert {int(name) for name, area in areas.items() if area == 25} == small
    assert all(set(found) == {"area", "confidence"} for found in record["found"].values())


def test_many_stretches_are_not_all_listed():
    names = [f"{number:05d}" for number in range(40)]
    found = dict.fromkeys(names)
    said = list(remarks._runs(names[::2], found))
    assert said == [*names[:10:2], "and 15 more stretches"]
    assert list(remarks._runs(names, found)) == ["00000 to 00039"]


def test_nothing_is_said_where_all_is_found(job, trainings):
    assert video_job.run(job)["remarks"] == []
