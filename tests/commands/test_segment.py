"""One-shot segmentation as a user runs it: what it leaves, what it learns, what it refuses."""

import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

import osvos_tf
from osvos_tf import results
from osvos_tf.commands import cli, segment
from osvos_tf.data import davis
from osvos_tf.errors import InputError
from osvos_tf.evaluation import metrics
from osvos_tf.jobs import outputs
from osvos_tf.media.frames import open_frames
from osvos_tf.media.masks import read_mask, write_labels
from osvos_tf.media.video_writer import write_video
from osvos_tf.network import DEFAULT_THRESHOLD, model
from osvos_tf.network.files import save_model
from osvos_tf.segmentation import colours, inference, snapping
from osvos_tf.segmentation.options import LearnOptions

HEIGHT, WIDTH = 48, 80  # of the invented tree


@pytest.fixture
def bear(fake_davis):
    """The first sequence of the invented tree."""
    return davis.read_split(fake_davis, "train", sequences=["bear"])[0]


@pytest.fixture
def arguments(bear, parent, tmp_path):
    """Flags by name, for tests to change."""
    return {
        "frames": bear.frames[0].image.parent,
        "mask": bear.frames[0].mask,
        "parent": parent,
        "out": tmp_path / "out",
        "updates": 2,
        "precision": "float32",
    }


def run(arguments):
    flags = [f"--{name}={value}" for name, value in arguments.items() if value is not None]
    segment.main(cli.parse(segment.FLAGS, flags))


def read_masks(folder):
    return {path.stem: read_mask(path) for path in sorted(folder.iterdir())}


def test_what_it_leaves(arguments, bear):
    run({**arguments, "probabilities": True})
    out = arguments["out"]
    assert {path.name for path in out.iterdir()} == {
        "annotations",
        "masks",
        "overlay.mp4",
        "probabilities",
        "run.json",
        "specialist.json",
        "specialist.keras",
    }
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []
    names = [frame.name for frame in bear.frames]
    for folder in ("masks", "probabilities"):
        assert sorted(path.name for path in (out / folder).iterdir()) == [f"{n}.png" for n in names]
    for name in names:
        with Image.open(out / "masks" / f"{name}.png") as picture:
            assert (picture.mode, picture.size) == ("L", (WIDTH, HEIGHT))
            assert set(np.unique(picture)) <= {0, 255}
    overlay = open_frames(out / "overlay.mp4")
    assert (overlay.size, len(overlay.names)) == ((HEIGHT, WIDTH), len(names))
    record = json.loads((out / "run.json").read_text())
    assert record["updates"] == len(record["losses"]) == 2
    assert record["frames"] == len(names) and record["size"] == [HEIGHT, WIDTH]
    assert record["flags"]["updates"] == 2 and record["flags"]["seed"] == 0
    assert set(record["versions"]) == {"osvos_tf", "tensorflow", "keras", "python"}
    assert set(record["seconds"]) == {"training", "inference"}
    assert list(record["found"]) == names
    masks = read_masks(out / "masks")
    assert [record["found"][name]["area"] for name in names] == [
        int(np.count_nonzero(masks[name])) for name in names
    ]


def test_masks_are_what_the_specialist_says(arguments, bear):
    run({**arguments, "snap": "none", "follow": False, "smooth": False})
    network = osvos_tf.load_model(arguments["out"] / "specialist.keras")
    frames = np.stack([frame for _, frame in open_frames(arguments["frames"])])
    expected = model.build_predictor(network).predict(frames, verbose=0)[..., 0] > DEFAULT_THRESHOLD
    found = np.stack(list(read_masks(arguments["out"] / "masks").values()))
    assert np.mean(found[1:] == expected[1:]) > 0.999  # another batch size may round another way
    np.testing.assert_array_equal(found[0], read_mask(arguments["mask"]))  # as it was given


@pytest.mark.slow
def test_one_mask_teaches_the_object(arguments, bear):
    """And around the object the same is found as in the whole frame, once it is learned."""
    run({**arguments, "updates": 300})
    found = np.stack(list(read_masks(arguments["out"] / "masks").values()))
    truth = np.stack([read_mask(frame.mask) for frame in bear.frames])
    assert metrics.region_similarity(found, truth).min() > 0.7
    specialist = osvos_tf.load(arguments["out"])
    video = osvos_tf.open_video(arguments["frames"])
    whole = [frame.mask for frame in specialist.segment(video, follow=False)]
    assert np.mean(metrics.region_similarity(found, np.stack(whole))) > 0.9


def test_a_second_run_with_the_same_seed_is_the_same(arguments, tmp_path):
    losses = {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run({**arguments, "out": tmp_path / name, "seed": seed})
        losses[name] = json.loads((tmp_path / name / "run.json").read_text())["losses"]
    assert losses["a"] == losses["b"] != losses["c"]


def test_no_updates_is_the_parent(arguments, parent):
    run({**arguments, "updates": 0})
    specialist = osvos_tf.load_model(arguments["out"] / "specialist.keras").get_weights()
    for ours, theirs in zip(specialist, osvos_tf.load_model(parent).get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "flags",
    [
        {"recipe": "plain"},
        {"recipe": "paper"},
        {"heads": "all"},
        {"views": 4, "frozen": 2},
        {"crop": 0.5},
        {"until_learned": False},
        {"updates": 7},
    ],
    ids=str,
)
def test_how_it_learns_can_be_chosen(quick, arguments, flags):
    run({**arguments, **flags})
    own = {"parent": str(arguments["parent"]), "updates": 2}
    expected = LearnOptions(**{**own, **flags}).stage()
    assert quick == [expected] and expected != LearnOptions(**own).stage()


def test_all_of_that_together(arguments):
    run({**arguments, "recipe": "plain", "height": 24, "heads": "all", "views": 4, "frozen": 2,
         "crop": 0.5})  # fmt: skip
    assert json.loads((arguments["out"] / "run.json").read_text())["updates"] == 2
    specialist = osvos_tf.load_model(arguments["out"] / "specialist.keras")
    assert model.working_height(specialist) == 24


def test_budget_ends_the_training(arguments):
    run({**arguments, "updates": None, "budget": 0.5})
    record = json.loads((arguments["out"] / "run.json").read_text())
    assert 1 <= record["updates"] < 500


def test_random_parent(arguments):
    run({**arguments, "parent": "random", "updates": 1})
    assert json.loads((arguments["out"] / "run.json").read_text())["updates"] == 1


def test_masks_of_an_earlier_run_do_not_linger(quick, arguments, tmp_path):
    longer = shutil.copytree(arguments["frames"], tmp_path / "longer")
    shutil.copy(longer / "00003.jpg", longer / "00004.jpg")
    run({**arguments, "frames": longer, "updates": 0})
    run({**arguments, "updates": 0, "overwrite": True})
    assert list(read_masks(arguments["out"] / "masks")) == [f"0000{i}" for i in range(4)]


def test_working_height_travels_with_the_model(arguments, tmp_path):
    network = model.build_foreground(width_multiplier=1 / 16, start="scratch", seed=1)
    network.get_layer("preprocess").working_height = 32
    save_model(network, tmp_path / "low.keras")
    run({**arguments, "parent": tmp_path / "low.keras"})
    assert {mask.shape for mask in read_masks(arguments["out"] / "masks").values()} == {
        (HEIGHT, WIDTH)
    }
    specialist = osvos_tf.load_model(arguments["out"] / "specialist.keras")
    assert model.working_height(specialist) == 32


@pytest.fixture(scope="session")
def contour(tmp_path_factory):
    path = tmp_path_factory.mktemp("contour") / "contour.keras"
    save_model(model.build_contour(width_multiplier=1 / 16, start="scratch", seed=2), path)
    return path


def test_masks_are_snapped_to_contours(arguments, contour):
    run({**arguments, "snap": "contour", "contour": contour, "contour_threshold": 0.2,
         "follow": False, "smooth": False})  # fmt: skip
    network = osvos_tf.load_model(arguments["out"] / "specialist.keras")
    streams = model.build_two_stream(network, osvos_tf.load_model(contour))
    frames = np.stack([frame for _, frame in open_frames(arguments["frames"])])
    predicted = streams.predict_on_batch(frames)
    found = read_masks(arguments["out"] / "masks")
    for index, mask in list(enumerate(found.values()))[1:]:
        labels = snapping.superpixels(snapping.ucm(predicted["contours"][index, ..., 0]), 0.2)
        raw = inference.to_mask(predicted["probabilities"][index, ..., 0])
        np.testing.assert_array_equal(mask, snapping.majority_vote(raw, labels))


def test_masks_are_snapped_to_edges(arguments):
    run({**arguments, "snap": "bilateral", "follow": False, "smooth": False})
    network = osvos_tf.load_model(arguments["out"] / "specialist.keras")
    frames = [frame for _, frame in open_frames(arguments["frames"])]
    predicted = model.build_predictor(network).predict_on_batch(np.stack(frames))
    found = read_masks(arguments["out"] / "masks")
    for frame, probability, mask in list(zip(frames, predicted, found.values(), strict=True))[1:]:
        expected = inference.to_mask(colours.snap_to_colours(probability[..., 0], frame))
        assert np.mean(mask == expected) > 0.999


def test_snap_and_contour_go_together(arguments, contour, parent):
    for flags, message in (
        ({"snap": "contour"}, "`contour` network go together"),
        ({"contour": contour}, "`contour` network go together"),
        ({"snap": "none", "contour": contour}, "`contour` network go together"),
        ({"snap": "contour", "contour": parent}, "holds a foreground network"),
        ({"snap": "contour", "contour": "absent"}, "No model file absent"),
    ):
        with pytest.raises(InputError, match=message):
            run({**arguments, **flags})
        assert_nothing_written(arguments["out"])


def test_video_in(quick, arguments, tmp_path):
    with write_video(tmp_path / "clip.mp4", (HEIGHT, WIDTH), 12) as writer:
        for _, frame in open_frames(arguments["frames"]):
            writer.write(frame)
    run({**arguments, "frames": tmp_path / "clip.mp4"})
    assert list(read_masks(arguments["out"] / "masks")) == ["00000", "00001", "00002", "00003"]
    assert open_frames(arguments["out"] / "overlay.mp4").fps == pytest.approx(12)


def test_a_damaged_video_gives_what_there_is_and_says_so(quick, arguments, tmp_path, capsys):
    rng = np.random.default_rng(0)
    clip = tmp_path / "clip.mp4"
    with write_video(clip, (HEIGHT, WIDTH), 12) as writer:
        for _ in range(12):
            writer.write(rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])
    for _ in range(2):  # the second time the results are there
        with pytest.raises(cli.Unfinished, match=r"[3-9] of its 12 frames") as told:
            run({**arguments, "frames": clip})
    found = len(read_masks(arguments["out"] / "masks"))
    assert f"{found} of its 12" in str(told.value)
    assert "holds these results already" in capsys.readouterr().out


@pytest.mark.slow
def test_a_specialist_on_another_clip(arguments, fake_davis, tmp_path):
    """Without a mask it is used as it is, be it a folder of results or a bare network."""
    run(arguments)
    goat = fake_davis / "JPEGImages/480p/goat"
    common = {"frames": goat, "snap": "none", "adapt": "false"}
    masks = []
    for name, source in (("a", arguments["out"]), ("b", arguments["out"] / "specialist.keras")):
        out = tmp_path / name
        flags = {**common, "specialist": source, "out": out}
        segment.main(cli.parse(segment.FLAGS, [f"--{key}={value}" for key, value in flags.items()]))
        masks.append(read_masks(out / "masks"))
        assert json.loads((out / "run.json").read_text())["frames"] == 4
    assert list(masks[0]) == list(masks[1])
    for name, mask in masks[0].items():
        np.testing.assert_array_equal(mask, masks[1][name])
    with pytest.raises(InputError, match=r"Wanted a `mask` .* or a `specialist`"):
        segment.main(cli.parse(segment.FLAGS, [f"--frames={goat}", f"--out={tmp_path / 'c'}"]))


@pytest.mark.slow
def test_a_correction_builds_on_what_was_learned(arguments, bear, tmp_path):
    """--from: all annotated frames count, all come back as given; also in its own place."""
    run(arguments)
    for out in (tmp_path / "better", arguments["out"]):
        flags = {
            "frames": arguments["frames"], "from": arguments["out"], "out": out, "updates": 2,
            "mask": f"2:{bear.frames[2].mask}", "snap": "none", "adapt": "false",
        }  # fmt: skip
        given = [f"--{key}={value}" for key, value in flags.items()]
        segment.main(cli.parse(segment.FLAGS, [*given, "--overwrite"]))
        masks = read_masks(out / "masks")
        for frame in (bear.frames[0], bear.frames[2]):
            np.testing.assert_array_equal(masks[frame.name], read_mask(frame.mask))
        assert [known.name for known in osvos_tf.load(out).annotations] == ["00000", "00002"]
        assert json.loads((out / "run.json").read_text())["updates"] == 2


def test_results_for_editors(quick, arguments):
    run({**arguments, "save": "alpha,foreground,coco"})
    found = {path.name for path in arguments["out"].iterdir()}
    assert {"masks", "alpha", "foreground", "coco.json"} <= found and "overlay.mp4" not in found
    with pytest.raises(InputError, match=r"Wanted `save` to name .*overlay.*Got 'gif'"):
        run({**arguments, "save": "gif"})


def test_a_mask_that_lies_among_the_frames_is_no_frame(quick, arguments, bear, tmp_path):
    folder = tmp_path / "frames"
    shutil.copytree(bear.frames[0].image.parent, folder)
    shutil.copy(bear.frames[0].mask, folder / "0_annotation.png")  # sorted first
    run({**arguments, "frames": folder, "mask": folder / "0_annotation.png"})
    assert list(read_masks(arguments["out"] / "masks")) == ["00000", "00001", "00002", "00003"]


def test_a_second_annotated_frame(quick, arguments, bear):
    flags = [f"--{name}={value}" for name, value in arguments.items()]
    for name in ("00002", "2"):
        given = [*flags, f"--mask={name}:{bear.frames[2].mask}", "--overwrite"]
        segment.main(cli.parse(segment.FLAGS, given))
        masks = read_masks(arguments["out"] / "masks")
        for frame in (bear.frames[0], bear.frames[2]):
            np.testing.assert_array_equal(masks[frame.name], read_mask(frame.mask))


def test_object_of_a_palette_mask(quick, arguments, tmp_path):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[4:20, 6:22], labels[30:40, 50:60] = 1, 2
    picture = Image.new("P", (WIDTH, HEIGHT))
    picture.putdata(labels.ravel().tolist())
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    picture.save(tmp_path / "palette.png")
    run({**arguments, "mask": tmp_path / "palette.png", "object": 2})
    first = arguments["out"] / "masks" / "00000.png"
    np.testing.assert_array_equal(np.array(Image.open(first)), (labels == 2) * 255)
    flags = {**arguments, "mask": tmp_path / "palette.png", "overwrite": True}
    segment.main(cli.parse(segment.FLAGS, [f"--{n}={v}" for n, v in flags.items()]))
    written = Image.open(first)
    assert written.mode == "P" and written.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
    np.testing.assert_array_equal(np.array(written), labels)
    record = results.read_record(arguments["out"])
    assert record["objects"] == {"1": "object 1", "2": "object 2"}
    labels[24:28, 6:22] = 3
    write_labels(tmp_path / "palette.png", labels)
    picked = ["--object=3", "--object=1"]
    segment.main(cli.parse(segment.FLAGS, [*(f"--{n}={v}" for n, v in flags.items()), *picked]))
    np.testing.assert_array_equal(np.array(Image.open(first)), np.where(labels == 2, 0, labels))
    assert set(record["found"]["00003"]["objects"]) == {"1", "2"}


def test_a_mask_an_object(quick, arguments, tmp_path):
    """Several masks of one frame are its objects, in their order; later ones lie in front."""
    masks = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    masks[0, 4:20, 6:22], masks[1, 10:40, 16:60] = 255, 255
    flags = [f"--{name}={value}" for name, value in arguments.items() if name != "mask"]
    for name, mask in zip("ab", masks, strict=True):
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
        flags.append(f"--mask={tmp_path / name}.png")
    segment.main(cli.parse(segment.FLAGS, flags))
    first = np.array(Image.open(arguments["out"] / "masks" / "00000.png"))
    np.testing.assert_array_equal(first, np.where(masks[1], 2, masks[0] // 255))
    with pytest.raises(InputError, match=r"black and white, but there are objects 1, 2"):
        segment.main(cli.parse(segment.FLAGS, [*flags, f"--mask=2:{tmp_path / 'a.png'}"]))


def assert_nothing_written(out):
    assert not out.exists() or not list(out.iterdir())
    assert not out.parent.exists() or not [
        path.name for path in out.parent.iterdir() if path.name.startswith(".")
    ]


def make(kind, tmp_path):
    """Returns the path of something that is wrong in one way."""
    path = tmp_path / kind
    if kind == "empty.png":
        cv2.imwrite(str(path), np.zeros((HEIGHT, WIDTH), np.uint8))
    elif kind == "full.png":
        cv2.imwrite(str(path), np.full((HEIGHT, WIDTH), 255, np.uint8))
    elif kind == "small.png":
        cv2.imwrite(str(path), np.eye(20, dtype=np.uint8) * 255)
    elif kind == "shades.png":
        cv2.imwrite(str(path), np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH))
    elif kind == "mixed":
        path.mkdir()
        cv2.imwrite(str(path / "00000.jpg"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        cv2.imwrite(str(path / "00001.jpg"), np.zeros((HEIGHT, WIDTH + 2, 3), np.uint8))
    elif kind == "nothing":
        path.mkdir()
    elif kind != "absent":
        path.write_text("not what the suffix says")
    return path


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("frames", "absent", "does not exist"),
        ("frames", "nothing", "image"),
        ("frames", "mixed", "00001"),
        ("frames", "broken.mp4", "broken.mp4"),
        ("mask", "absent", "does not exist"),
        ("mask", "empty.png", "no object pixel"),
        ("mask", "full.png", "no background pixel"),
        ("mask", "small.png", "20x20"),
        ("mask", "shades.png", "holds"),
        ("parent", "absent", "No model file"),
        ("parent", "text.keras", "not a .keras file"),
        ("out", "text.file", "output folder"),
        ("updates", -1, "`updates` must be"),
        ("budget", 0, "`budget` must be"),
        ("frozen", 2, "`frozen` needs `views`"),
        ("height", 0, "`height` must be"),
        ("object", 7, "by `object`"),
    ],
)
def test_refused_with_a_message_and_nothing_written(arguments, tmp_path, flag, value, message):
    if isinstance(value, str):
        value = make(value, tmp_path)
    with pytest.raises(InputError, match=message):
        run({**arguments, flag: value})
    assert_nothing_written(arguments["out"])


def test_nothing_to_learn_from(arguments):
    with pytest.raises(InputError, match="learned nothing"):
        run({**arguments, "parent": "random", "updates": 0})


def test_exit_status_of_a_users_mistake(arguments, commands):
    flags = [f"--{name}={value}" for name, value in {**arguments, "frames": "absent"}.items()]
    for flag in (flags, ["--frames=x"], ["--no_such_flag=1"], [*flags, "word"]):
        status, said = commands.finish("segment", flag)
        assert status == 2 and said.startswith("segment: ") and "Traceback" not in said
    assert "Wanted flags only" in said


def test_missing_flags_are_named():
    with pytest.raises(InputError, match=r"Wanted --out as well"):
        segment.main(cli.parse(segment.FLAGS, ["--frames=x"]))


# --- nothing of the user's is lost ----------------------------------------------------------------


def test_results_of_other_flags_are_replaced_only_where_that_is_said(quick, arguments, capsys):
    out = arguments["out"]
    run(arguments)
    before = read_all(out)
    run(arguments)  # the same command again is fine
    assert "holds these results already" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"made with another seed.*`overwrite`"):
        run({**arguments, "seed": 1})
    other = shutil.copytree(arguments["frames"], out.parent / "another_video")
    with pytest.raises(InputError, match=r"made with another frames.*`overwrite`"):
        run({**arguments, "frames": other})
    assert read_all(out) == before
    (out / "notes.txt").write_text("mine")
    run({**arguments, "seed": 1, "overwrite": True})
    assert json.loads((out / "run.json").read_text())["flags"]["seed"] == 1
    assert (out / "notes.txt").read_text() == "mine"


def test_a_run_that_fails_leaves_the_earlier_result(quick, arguments, monkeypatch):
    run(arguments)
    before = read_all(arguments["out"])
    monkeypatch.setattr(outputs, "write_mask", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        run({**arguments, "seed": 1, "overwrite": True})
    assert read_all(arguments["out"]) == before


def test_a_corrected_mask_in_the_results_stays_as_it_was_drawn(quick, arguments, bear, capsys):
    """The README's loop: correct OUT/masks/00002.png, and give it as well."""
    out = arguments["out"]
    run(arguments)
    corrected = out / "masks" / "00002.png"
    Image.fromarray(read_mask(bear.frames[2].mask) * 255).save(corrected, compress_level=1)
    drawn = corrected.read_bytes()
    flags = [f"--{name}={value}" for name, value in arguments.items()]
    flags.append(f"--mask=00002:{corrected}")
    with pytest.raises(InputError, match="made with another mask"):
        segment.main(cli.parse(segment.FLAGS, flags))
    segment.main(cli.parse(segment.FLAGS, [*flags, "--overwrite"]))
    assert corrected.read_bytes() == drawn
    segment.main(cli.parse(segment.FLAGS, flags))
    assert "holds these results already" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["mask", "parent", "frames"])
def test_inputs_among_the_results_are_not_written_over(quick, arguments, bear, flag):
    out = arguments["out"]
    run(arguments)
    inside = {
        "mask": out / "masks" / "drawn.png",
        "parent": out / "specialist.keras",
        "frames": out / "masks",
    }[flag]
    if flag == "mask":
        Image.open(bear.frames[0].mask).convert("RGB").save(inside)
    before = read_all(out)
    with pytest.raises(InputError, match=r"whose content would be replaced"):
        run({**arguments, flag: inside, "overwrite": True})
    assert read_all(out) == before


def test_a_folder_of_somebody_else_is_refused(arguments):
    masks = arguments["out"] / "masks"
    masks.mkdir(parents=True)
    (masks / "00000.png").write_bytes(b"annotated by hand")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"did not make \(masks\)"):
            run({**arguments, "overwrite": overwrite})
    assert (masks / "00000.png").read_bytes() == b"annotated by hand"


def test_where_no_rename_can_go(arguments, monkeypatch):
    arguments["out"].mkdir()
    monkeypatch.chdir(arguments["out"])
    with pytest.raises(InputError, match=r"holds the current folder\. Name a folder in it"):
        run({**arguments, "out": "."})


def test_the_specialist_of_a_killed_run_is_used(arguments, capsys, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "write_mask", fail)
        with pytest.raises(KeyboardInterrupt):
            run(arguments)
    assert not arguments["out"].exists()
    with monkeypatch.context() as patch:
        patch.setattr("osvos_tf.training.one_shot.learn", fail)
        run(arguments)
    assert "has been learned before" in capsys.readouterr().out
    assert json.loads((arguments["out"] / "run.json").read_text())["updates"] == 2


def test_masks_without_an_object_are_said(arguments, capsys):
    run({**arguments, "threshold": 1.0, "snap": "none"})
    said = capsys.readouterr().out
    assert "No object was found in 3 of 4 frames: 00001 to 00003." in said
    record = json.loads((arguments["out"] / "run.json").read_text())
    assert [frame["area"] for frame in record["found"].values()] == [256, 0, 0, 0]
    assert [frame["confidence"] for frame in record["found"].values()] == [1, 0, 0, 0]


def read_all(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
