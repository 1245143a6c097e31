"""Work lists, their shards, and which results count as whole."""

import json
import pathlib
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osvos_tf import davis, video, worklist
from osvos_tf.errors import InputError


def write_list(folder, *lines):
    path = folder / "list.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


# --- what there is to do --------------------------------------------------------------------------


def test_a_split(fake_davis):
    items = worklist.from_davis(davis.read_split(fake_davis, "train"))
    assert [item.name for item in items] == ["bear", "goat"]
    assert items[0].frames == str(fake_davis / "JPEGImages/480p/bear")
    assert items[0].masks == (str(fake_davis / "Annotations/480p/bear/00000.png"),)


def test_a_split_that_leaves_out_the_first_frame_says_which_frame_the_mask_is_of(fake_davis):
    path = fake_davis / "ImageSets/480p/train.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[2:4]))
    (item,) = worklist.from_davis(davis.read_split(fake_davis, "train"))
    assert item.masks == (f"00002:{fake_davis / 'Annotations/480p/bear/00002.png'}",)


def test_a_list(tmp_path):
    (tmp_path / "day.1" / "camera v2").mkdir(parents=True)
    (tmp_path / "a:b.mp4").touch()
    path = write_list(
        tmp_path,
        "# videos and masks",
        "",
        "dog.mp4 dog.png",
        "'day.1/camera v2' day.1/m.png 00042:'day.1/corrected mask.png'",
        "left:day.1/x /abs/m.png",
        "a:b.mp4 m.png",
        "größe.mov m.png",
    )
    assert worklist.read_list(path) == (
        worklist.Item("dog", f"{tmp_path}/dog.mp4", (f"{tmp_path}/dog.png",)),
        worklist.Item(
            "camera v2",
            f"{tmp_path}/day.1/camera v2",
            (f"{tmp_path}/day.1/m.png", f"00042:{tmp_path}/day.1/corrected mask.png"),
        ),
        worklist.Item("left", f"{tmp_path}/day.1/x", ("/abs/m.png",)),
        worklist.Item("a:b", f"{tmp_path}/a:b.mp4", (f"{tmp_path}/m.png",)),
        worklist.Item("größe", f"{tmp_path}/größe.mov", (f"{tmp_path}/m.png",)),
    )
    (item,) = worklist.read_list(write_list(tmp_path, "dog.mp4 dog.png"), "/videos")
    assert item == worklist.Item("dog", "/videos/dog.mp4", ("/videos/dog.png",))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["dog.mp4"], r"line 1: wanted FRAMES MASK, got 'dog\.mp4'"),
        (["a.mp4 a.png", "'b.mp4 b.png"], "line 2: No closing quotation"),
        (["# nothing"], "is empty"),
        (["dog.mp4 m.png", "day2/dog.mp4 m.png"], "two sequences called 'dog'"),
    ],
)
def test_lists_that_are_refused(tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        worklist.read_list(write_list(tmp_path, *lines))


def test_a_list_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="No list"):
        worklist.read_list(tmp_path / "absent")
    (tmp_path / "list").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        worklist.read_list(tmp_path / "list")


@pytest.mark.parametrize(
    "name", ["..", "../x", "/etc", "a/b", "a\\\\b", ".hidden", ".", "results.jsonl", "'a\tb'"]
)
def test_names_that_are_no_plain_folder_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"plain sequence|cannot name a folder"):
        worklist.read_list(write_list(tmp_path, f"{name}:frames mask.png"))


@given(st.text() | st.text("./\\\\a'"), st.text())
def test_no_name_leads_out_of_the_folder(tmp_path_factory, name, frames):
    """Whatever a list says: each folder of results lies directly in the output folder."""
    folder = tmp_path_factory.mktemp("lists")
    line = f"{name}:{frames} mask.png"
    try:
        items = worklist.read_list(write_list(folder, line.replace("\ud800", "")))
    except (InputError, UnicodeEncodeError):
        return
    for item in items:
        assert pathlib.Path("/out", item.name).resolve().parent == pathlib.Path("/out").resolve()


@given(st.integers(0, 40), st.integers(1, 12))
def test_shards_partition_the_list(length, count):
    items = list(range(length))
    shards = [worklist.shard(items, index, count) for index in range(count)]
    assert sorted(item for shard in shards for item in shard) == items
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


# --- what was made of it --------------------------------------------------------------------------


@pytest.fixture
def flags(fake_davis, tmp_path):
    """What decides over bear's results."""
    parent = tmp_path / "parent.keras"
    parent.write_bytes(b"weights")
    masks = fake_davis / "Annotations/480p/bear"
    return {
        "frames": str(fake_davis / "JPEGImages/480p/bear"),
        "mask": [str(masks / "00000.png"), f"00002:{masks / '00002.png'}"],
        "parent": str(parent),
        "updates": 3,
        "probabilities": True,
        "out": "anywhere",
    }


@pytest.fixture
def item(flags):
    return worklist.Item("bear", flags["frames"], tuple(flags["mask"]))


def make(folder, names=("00000", "00001", "00002", "00003")):
    """Writes what `segment` would."""
    for kind in worklist.FOLDERS:
        (folder / kind).mkdir(parents=True)
        for name in names:
            video.write_mask(folder / kind / f"{name}.png", np.eye(48, 80))
    (folder / "specialist.keras").write_bytes(b"weights")
    record = {"frames": len(names), "size": [48, 80], "flags": {"out": str(folder)}, "updates": 3}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def result(item, flags, tmp_path):
    """bear's published results."""
    partial = make(worklist.partial_folder(tmp_path, item))
    worklist.publish(partial, tmp_path / "bear", worklist.describe_inputs(flags))
    assert not partial.exists()
    return tmp_path / "bear"


def find_fault(item, result, flags):
    return worklist.find_fault(item, result, worklist.describe_inputs(flags))


def test_whole_results(item, result, flags):
    assert find_fault(item, result, flags) is None
    assert find_fault(item, result, {**flags, "out": "elsewhere"}) is None
    assert worklist.read_record(result)["flags"]["out"] == str(result)


@pytest.mark.parametrize("kind", worklist.FOLDERS)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "3 of 4 .*00002.png is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:60]), "00002.png' cannot be read"),
        (lambda path: path.write_bytes(b""), "00002.png' cannot be read"),
        (lambda path: video.write_mask(path, np.eye(3)), "3x3"),
        (lambda path: path.rename(path.with_name("x.png")), "00002.png is missing"),
        (lambda path: path.with_name("x.png").write_bytes(path.read_bytes()), "5 of 4"),
    ],
)
def test_damaged_results(item, result, flags, kind, damage, message):
    damage(result / kind / "00002.png")
    assert re.search(message, find_fault(item, result, flags))


def test_results_without_a_record(item, result, flags):
    (result / "run.json").write_text("{")
    assert find_fault(item, result, flags) == "no run.json that can be read"
    (result / "run.json").write_text("[1]")
    assert find_fault(item, result, flags) == "no run.json that can be read"
    (result / "run.json").unlink()
    assert find_fault(item, result, flags) == "no run.json that can be read"
    make(result.parent / "plain")  # by `segment` itself: nobody knows from which parent
    assert "made with another frames, mask, parent" in find_fault(
        item, result.parent / "plain", flags
    )


def test_results_of_other_flags_networks_masks(item, result, flags):
    assert find_fault(item, result, {**flags, "updates": 4}) == "made with another updates"
    assert find_fault(item, result, {**flags, "new": None}) == "made with another new"
    pathlib.Path(flags["parent"]).write_bytes(b"new weights")
    assert find_fault(item, result, flags) == "made with another parent"
    pathlib.Path(flags["parent"]).write_bytes(b"weights")
    assert find_fault(item, result, flags) is None
    video.write_mask(flags["mask"][1].partition(":")[2], np.eye(48, 80))
    assert find_fault(item, result, flags) == "made with another mask"


def test_results_of_a_video_are_counted_by_their_record(item, flags, tmp_path):
    clip = tmp_path / "clip.mp4"
    with video.VideoWriter(clip, (48, 80)) as writer:
        for _ in range(4):
            writer.write(np.zeros((48, 80, 3), np.uint8))
    flags = {**flags, "frames": str(clip)}
    item = worklist.Item("clip", str(clip), item.masks)
    partial = make(worklist.partial_folder(tmp_path, item))
    worklist.publish(partial, tmp_path / "clip", worklist.describe_inputs(flags))
    assert find_fault(item, tmp_path / "clip", flags) is None
    (tmp_path / "clip/masks/00003.png").unlink()
    assert "3 of 4" in find_fault(item, tmp_path / "clip", flags)


def test_publishing_over_earlier_results_replaces_those_alone(item, result, flags):
    (result / "notes.txt").write_text("mine")
    video.write_mask(result / "masks/old.png", np.eye(48, 80))
    partial = make(worklist.partial_folder(result.parent, item))
    (partial / "specialist.keras").write_bytes(b"new")
    worklist.publish(partial, result, worklist.describe_inputs({**flags, "updates": 5}))
    assert find_fault(item, result, {**flags, "updates": 5}) is None
    assert (result / "notes.txt").read_text() == "mine"
    assert (result / "specialist.keras").read_bytes() == b"new"
    assert not partial.exists()


def test_a_file_in_the_way_is_kept(item, flags, tmp_path):
    (tmp_path / "bear").write_text("mine")
    partial = make(worklist.partial_folder(tmp_path, item))
    with pytest.raises(OSError):
        worklist.publish(partial, tmp_path / "bear", worklist.describe_inputs(flags))
    assert (tmp_path / "bear").read_text() == "mine"


def test_what_was_cut_off_is_removed_and_nothing_else(item, result, tmp_path):
    other = worklist.Item("bear.x", "", ())
    left = [worklist.partial_folder(tmp_path, i) for i in (item, item, other)]
    for folder in left:
        make(folder)
    (tmp_path / ".bear").mkdir()
    worklist.remove_partial(tmp_path, [item])
    assert [folder.exists() for folder in left] == [False, False, True]
    assert result.is_dir() and (tmp_path / ".bear").is_dir()


# --- what happened --------------------------------------------------------------------------------


def test_results_are_lines_and_the_last_one_counts(tmp_path):
    path = worklist.results_path(tmp_path)
    assert worklist.read_results(path) == {}
    worklist.append_result(path, {"sequence": "bear", "status": "failed"})
    with open(path, "a") as file:
        file.write('{"sequence": "go')  # cut off
    worklist.append_result(path, {"sequence": "größe", "status": "done"})
    worklist.append_result(path, {"sequence": "bear", "status": "done"})
    assert len(path.read_bytes().splitlines()) == 4
    assert worklist.read_results(path) == {
        "bear": {"sequence": "bear", "status": "done"},
        "größe": {"sequence": "größe", "status": "done"},
    }


def test_each_shard_has_its_own_file():
    assert worklist.results_path("out").name == "results.jsonl"
    assert worklist.results_path("out", 3, 16).name == "results-00003-of-00016.jsonl"
