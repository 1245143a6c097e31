"""DAVIS trees: both list forms, and every way in which a tree can be incomplete."""

import pytest

from osvos_tf.data import davis, youtube_vos
from osvos_tf.errors import InputError
from osvos_tf.jobs import worklist


def write_list(root, text, folder="2017", split="train"):
    path = root / "ImageSets" / folder / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refused(root, *words, split="train", **options):
    """Asserts that the tree is refused with a message that holds all of `words`."""
    with pytest.raises(InputError) as caught:
        davis.read_split(root, split, **options)
    message = str(caught.value)
    assert all(str(word) in message for word in words), message


# --- what is read ---------------------------------------------------------------------------------


def test_pair_list(fake_davis):
    bear, goat = davis.read_split(fake_davis, "train")
    assert (bear.name, goat.name) == ("bear", "goat")
    assert [frame.name for frame in bear.frames] == ["00000", "00001", "00002", "00003"]
    first = bear.frames[0]
    assert first.image == fake_davis / "JPEGImages/480p/bear/00000.jpg"  # despite the list's slash
    assert first.mask == fake_davis / "Annotations/480p/bear/00000.png"
    assert all(frame.image.is_file() and frame.mask.is_file() for frame in goat.frames)


def test_pair_list_without_leading_slash(fake_davis):
    path = fake_davis / "ImageSets/480p/train.txt"
    before = davis.read_split(fake_davis, "train")
    path.write_text(path.read_text().replace("/JPEG", "JPEG").replace(" /", "\t"))
    assert davis.read_split(fake_davis, "train") == before


def test_pair_list_says_which_frames(fake_davis):
    path = fake_davis / "ImageSets/480p/train.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:6]))
    names = [[f.name for f in s.frames] for s in davis.read_split(fake_davis, "train")]
    assert names == [["00001", "00002", "00003"], ["00000", "00001"]]


def test_relative_root(fake_davis, monkeypatch):
    monkeypatch.chdir(fake_davis / "JPEGImages")
    (bear, _) = davis.read_split("..", "train")
    assert bear.frames[0].image.is_file()


def test_name_list(fake_davis):
    by_pairs = davis.read_split(fake_davis, "train")
    write_list(fake_davis, "\ngoat\r\nbear  \n\n")
    assert davis.read_split(fake_davis, "2017/train") == by_pairs[::-1]
    assert davis.read_split(fake_davis, "train") == by_pairs  # the resolution's list comes first


def test_name_list_sorts_frames_and_passes_other_files_by(fake_davis):
    images = fake_davis / "JPEGImages/480p/bear"
    for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
        folder = fake_davis / kind / "480p" / "bear"
        (folder / f"00001.{suffix}").rename(folder / f"00010.{suffix}")
    (images / "Thumbs.db").touch()
    write_list(fake_davis, "bear")
    (bear,) = davis.read_split(fake_davis, "2017/train")
    assert [frame.name for frame in bear.frames] == ["00000", "00002", "00003", "00010"]


def test_chosen_sequences_come_in_the_order_asked_for(fake_davis):
    def names(*sequences):
        return [s.name for s in davis.read_split(fake_davis, "train", sequences=sequences)]

    assert names("goat") == ["goat"]
    assert names("goat", "bear", "goat") == ["goat", "bear"]


@pytest.mark.real_data
def test_real_splits_do_not_overlap(real_data):
    splits = {name: davis.read_split(real_data / "DAVIS", name) for name in ("train", "val")}
    train, val = ({sequence.name for sequence in found} for found in splits.values())
    assert train and val and not train & val
    for sequences in splits.values():
        for sequence in sequences:
            names = [frame.name for frame in sequence.frames]
            assert names == [f"{number:05d}" for number in range(len(names))], sequence.name


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["train", "2017/train"])
@pytest.mark.parametrize(
    ("kind", "file"),
    [("JPEGImages", "bear/00000.jpg"), ("Annotations", "bear/00002.png")],
)
def test_missing_file(fake_davis, form, kind, file):
    write_list(fake_davis, "goat\nbear")
    path = fake_davis / kind / "480p" / file
    path.unlink()
    refused(fake_davis, path.name, path.parent, "'bear'", split=form)


def test_mask_without_frame_in_the_middle_of_a_sequence(fake_davis):
    write_list(fake_davis, "bear")
    (fake_davis / "JPEGImages/480p/bear/00002.jpg").unlink()
    refused(fake_davis, "No image 00002.jpg", split="2017/train")


def test_folder_instead_of_file(fake_davis):
    image = fake_davis / "JPEGImages/480p/bear/00000.jpg"
    image.unlink()
    image.mkdir()
    refused(fake_davis, "00000.jpg")


def test_absent_sequence(fake_davis):
    write_list(fake_davis, "bear\nwolf")
    refused(fake_davis, "'wolf'", fake_davis / "JPEGImages/480p/wolf", split="2017/train")


def test_sequence_without_frames(fake_davis):
    (fake_davis / "JPEGImages/480p/wolf").mkdir()
    write_list(fake_davis, "wolf")
    refused(fake_davis, "'wolf'", "no frame", split="2017/train")


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_empty_list(fake_davis, text):
    path = write_list(fake_davis, text)
    refused(fake_davis, path, "empty", split="2017/train")


def test_list_that_is_no_text(fake_davis):
    path = write_list(fake_davis, "")
    path.write_bytes(b"\xff\xfe\x00bear")
    refused(fake_davis, path, "UTF-8", split="2017/train")


@pytest.mark.parametrize("split", ["tset", "2017/train", "../train"])
def test_unknown_split(fake_davis, split):
    refused(fake_davis, repr(split), "480p/train, 480p/val", split=split)


def test_unknown_sequence_filter(fake_davis):
    refused(fake_davis, "'wolf', 'swan'", "bear, goat", sequences=["bear", "wolf", "swan"])


@pytest.mark.parametrize("name", ["../x", "..", ".", "/bear", "bear/", "a\\b", "bear\0"])
def test_names_that_are_paths(fake_davis, name):
    write_list(fake_davis, name)
    refused(fake_davis, repr(name), split="2017/train")


def test_pairs_that_leave_the_root(fake_davis):
    path = fake_davis / "ImageSets/480p/train.txt"
    path.write_text(path.read_text() + "/../JPEGImages/a.jpg /Annotations/480p/bear/00000.png\n")
    refused(fake_davis, path, "line 9", "inside")


@pytest.mark.parametrize(
    ("text", "line"),
    [("/a.jpg /a.png 1 0", 1), ("bear\ngoat goat", 2)],
)
def test_wrong_number_of_fields(fake_davis, text, line):
    path = write_list(fake_davis, text)
    refused(fake_davis, path, f"line {line}", "fields", split="2017/train")


@pytest.mark.parametrize("form", ["480p", "2017"])
def test_line_that_comes_twice(fake_davis, form):
    write_list(fake_davis, "bear\ngoat\nbear\n")
    path = fake_davis / "ImageSets" / form / "train.txt"
    path.write_text(path.read_text() + path.read_text())
    refused(fake_davis, path, "twice", split=f"{form}/train")


def test_folder_that_is_no_davis_tree(fake_davis, tmp_path):
    refused(tmp_path / "absent", tmp_path / "absent", "does not exist", "Check its folder")
    refused(fake_davis / "JPEGImages", "Annotations", "found", "480p")
    refused(fake_davis, "JPEGImages/1080p", resolution="1080p")


# --- trees as people have them --------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".JPG", ".png", ".jpeg"])
@pytest.mark.parametrize("split", ["train", "2017/train"])
def test_frames_of_another_suffix(fake_davis, suffix, split):
    write_list(fake_davis, "bear\ngoat")
    before = davis.read_split(fake_davis, split)
    for image in (fake_davis / "JPEGImages").rglob("*.jpg"):
        image.rename(image.with_suffix(suffix))
    after = davis.read_split(fake_davis, split)
    assert [[frame.name for frame in s.frames] for s in after] == [
        [frame.name for frame in s.frames] for s in before
    ]
    assert {frame.image.suffix for s in after for frame in s.frames} == {suffix}


def test_a_byte_order_mark_is_no_name(fake_davis):
    write_list(fake_davis, "\ufeffgoat")
    assert [s.name for s in davis.read_split(fake_davis, "2017/train")] == ["goat"]


@pytest.mark.parametrize("split", ["train", "2017/train"])
def test_only_first_masks(fake_davis, split):
    """As in the test lists of DAVIS-2017: scoring needs all masks, segmenting one."""
    write_list(fake_davis, "bear\ngoat")
    for mask in (fake_davis / "Annotations").rglob("*.png"):
        if mask.stem != "00000":
            mask.unlink()
    refused(fake_davis, "No mask 00001.png", split=split)
    for sequence in youtube_vos.read_tree(fake_davis, split):
        assert [bool(frame.mask) for frame in sequence.frames] == [True, False, False, False]


def test_youtube_vos(fake_davis, tmp_path):
    """No list, no resolution, names that skip; the object may come later."""
    for kind in ("JPEGImages", "Annotations"):
        (tmp_path / "YT/valid" / kind).mkdir(parents=True)
        for name in ("bear", "goat"):
            (fake_davis / kind / "480p" / name).rename(tmp_path / "YT/valid" / kind / name)
    for mask in (tmp_path / "YT/valid/Annotations").rglob("*.png"):
        if mask.stem != "00001":
            mask.unlink()
    (tmp_path / "YT/valid/meta.json").write_text("{}")
    found = youtube_vos.read_tree(tmp_path / "YT", "valid")
    assert found == youtube_vos.read_tree(tmp_path / "YT/valid", "valid")
    assert [s.name for s in found] == ["bear", "goat"]
    bear, _ = worklist.from_davis(found)
    assert bear.masks == (f"00001:{found[0].frames[1].mask}",) and bear.frames.endswith("bear")
    assert youtube_vos.read_tree(tmp_path / "YT", "valid", sequences=["goat"]) == found[1:]
    found[0].frames[1].mask.unlink()
    with pytest.raises(InputError, match="'bear' has no mask for any of its 4 frames"):
        youtube_vos.read_tree(tmp_path / "YT", "valid")
