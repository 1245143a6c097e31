"""Work lists, their shards, and lines of results."""

import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osvos_tf.data import davis, youtube_vos
from osvos_tf.errors import InputError
from osvos_tf.jobs import worklist
from osvos_tf.media.masks import write_labels


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
        (["a.mp4 a.png", "~\0 b.png"], "line 2: it holds a zero byte"),
        (["# nothing"], "is empty"),
        (["C:\\clips\\dog.mp4 m.png"], "line 1: it has a Windows path"),
        (["clips\\dog.mp4 m.png"], "line 1: it has a Windows path"),
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


def test_frames_that_show_an_object_first_are_given(fake_davis):
    """As in YouTube-VOS, whose valid split has no other masks."""
    masks = fake_davis / "Annotations/480p/bear"
    (masks / "00001.png").unlink()
    for number, ids in ((0, (1, 2)), (2, (2, 1)), (3, (4, 1))):
        labels = np.zeros((48, 80), np.uint8)
        labels[:9], labels[20:30] = ids
        write_labels(masks / f"{number:05d}.png", labels)
    tree = youtube_vos.read_tree(fake_davis, "train", sequences=["bear"])
    (item,) = worklist.from_davis(tree)
    assert item.masks == (str(masks / "00000.png"), f"00003:{masks / '00003.png'}")
