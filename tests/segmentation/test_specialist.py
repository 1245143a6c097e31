"""The Python API: learn an object, find it, correct, save, load, export, score."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import osvos_tf
from osvos_tf.commands import cli, segment, shared_flags
from osvos_tf.data import davis
from osvos_tf.errors import InputError
from osvos_tf.evaluation import metrics
from osvos_tf.media.frames import Frames
from osvos_tf.media.masks import VOID, read_mask, write_mask
from osvos_tf.network import model
from osvos_tf.network.files import save_model
from osvos_tf.network.parents import PARENTS
from osvos_tf.segmentation import specialist
from osvos_tf.segmentation.options import LearnOptions, SegmentOptions
from osvos_tf.segmentation.segmenter import Segmenter
from osvos_tf.training import recipes
from support.world import REPOSITORY, paint

QUICK = {"updates": 2, "precision": "float32"}
IDS = {"snap": "none", "precision": "float32"}


@pytest.fixture(scope="module")
def bear(tmp_path_factory):
    root = paint(tmp_path_factory.mktemp("world") / "DAVIS")
    return davis.read_split(root, "train", sequences=["bear"])[0]


@pytest.fixture(scope="module")
def frames(bear):
    return np.stack([image for _, image in osvos_tf.open_video(bear.frames[0].image.parent)])


@pytest.fixture(scope="module")
def mask(bear):
    return read_mask(bear.frames[0].mask)


@pytest.fixture(scope="module")
def dog(frames, mask, parent):
    return osvos_tf.learn(frames, {0: mask}, parent=parent, **QUICK)


def masks_of(found):
    return np.stack([frame.mask for frame in found])


# --- what a user sees -----------------------------------------------------------------------------


def test_importing_loads_neither_tensorflow_nor_opencv():
    program = (
        "import sys, osvos_tf\n"
        "assert not {'tensorflow', 'keras', 'cv2', 'numpy'} & set(sys.modules)\n"
        "osvos_tf.LearnOptions(updates=3), osvos_tf.SegmentOptions(), osvos_tf.InputError\n"
        "assert not {'tensorflow', 'keras', 'cv2'} & set(sys.modules)\n"
        "osvos_tf.open_video, osvos_tf.evaluate\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
        "assert set(osvos_tf.__all__) <= set(dir(osvos_tf))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_there_is_nothing_else():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        osvos_tf.nothing  # noqa: B018


def test_a_video_is_a_sequence_of_frames(bear, frames):
    folder = osvos_tf.open_video(bear.frames[0].image.parent)
    array = osvos_tf.open_video(frames)
    for opened in (folder, array):
        assert (len(opened), opened.names) == (4, ["00000", "00001", "00002", "00003"])
        for key in (2, -2, "00002", "2", np.int64(2)):
            np.testing.assert_array_equal(opened[key], frames[2])
        assert [name for name, _ in opened] == opened.names
        with pytest.raises(IndexError):
            opened[4]
        with pytest.raises(InputError, match="Wanted frame 'x'"):
            opened["x"]
    assert osvos_tf.open_video(array) is array


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 8, 8), np.uint8), r"shape \(4, 8, 8\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), r"shape \(0, 8, 8, 3\)"),
        (np.zeros((4, 8, 8, 3)), r"Got float64"),
    ],
)
def test_arrays_that_are_no_video(array, message):
    with pytest.raises(InputError, match=message):
        osvos_tf.open_video(array)


def test_frames_are_found(dog, frames, mask):
    seen = []
    found = list(dog.segment(frames, on_progress=seen.append, **IDS))
    assert [frame.name for frame in found] == ["00000", "00001", "00002", "00003"]
    for frame, image in zip(found, frames, strict=True):
        np.testing.assert_array_equal(frame.image, image)
        assert frame.mask.dtype == np.uint8 and set(np.unique(frame.mask)) <= {0, 1}
        assert frame.probability[1].dtype == np.float32
        assert frame.probability[1].min() >= 0 and frame.probability[1].max() <= 1
        assert 0 <= frame.confidence[1] <= 1
    for frame in found[1:]:
        np.testing.assert_array_equal(frame.mask, frame.probability[1] > 0.7)
    assert [(step.what, step.done, step.total) for step in seen] == [
        ("segment", number, 4) for number in (1, 2, 3, 4)
    ]


def test_it_is_streamed(dog, frames):
    """The first result is there before the last frame is read."""
    read = []

    class Watched(Frames):
        path, size, fps, length = pathlib.Path("x"), frames.shape[1:3], 24.0, 80
        names = [f"{number:05d}" for number in range(80)]  # noqa: RUF012

        def __iter__(self):
            for number, name in enumerate(self.names):
                read.append(name)
                yield name, frames[number % 4]

        def read(self, name):
            return frames[int(name) % 4]

        def check(self):
            pass

    for smooth, most in ((False, 30), (True, 62)):
        read.clear()
        found = dog.segment(Watched(), smooth=smooth, **IDS)
        next(found)
        assert len(read) < most
        found.close()


def test_learning_reports_and_can_be_left(frames, mask, parent):
    seen = []
    learned = osvos_tf.learn(frames, {0: mask}, parent=parent, on_progress=seen.append, **QUICK)
    assert [(step.what, step.done, step.total) for step in seen] == [
        ("learn", 1, 2),
        ("learn", 2, 2),
    ]
    assert [step.loss for step in seen] == [loss for _, loss in learned.losses]

    def leave(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        osvos_tf.learn(frames, {0: mask}, parent=parent, on_progress=leave, **QUICK)


@pytest.mark.slow
def test_what_one_mask_teaches(bear, frames, mask, parent):
    learned = osvos_tf.learn(frames, {0: mask}, parent=parent, updates=300, precision="float32")
    scores = osvos_tf.evaluate(learned.segment(frames), bear.frames[0].mask.parent)
    assert scores.J > 0.7
    assert scores == osvos_tf.evaluate(
        masks_of(learned.segment(frames)),
        np.stack([read_mask(frame.mask) for frame in bear.frames]),
    )


def test_api_and_command_give_the_same_masks(bear, frames, parent, tmp_path):
    """Bit for bit: there is one way to learn and to segment."""
    flags = [
        f"--frames={bear.frames[0].image.parent}", f"--mask={bear.frames[0].mask}",
        f"--parent={parent}", f"--out={tmp_path / 'out'}", "--updates=3", "--seed=5",
    ]  # fmt: skip
    segment.main(cli.parse(segment.FLAGS, flags))
    learned = osvos_tf.learn(
        frames, {0: bear.frames[0].mask}, options=LearnOptions(parent=parent, updates=3, seed=5)
    )
    for frame in learned.segment(frames):
        written = read_mask(tmp_path / "out" / "masks" / f"{frame.name}.png")
        np.testing.assert_array_equal(frame.mask, written)
    loaded = osvos_tf.load(tmp_path / "out")
    assert loaded.losses == learned.losses
    for ours, theirs in zip(
        loaded.network.get_weights(), learned.network.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_given_masks_come_back(frames, mask, parent):
    """As they were given, in the frame that they are of; another clip's first frame is its own."""
    drawn = np.zeros_like(mask)
    drawn[3:9, 60:71] = 1  # where no network would find anything
    learned = osvos_tf.learn(frames, {0: mask, 2: drawn}, parent=parent, **QUICK)
    found = list(learned.segment(frames, **IDS))
    np.testing.assert_array_equal(found[0].mask, mask)
    np.testing.assert_array_equal(found[2].mask, drawn)
    assert found[0].confidence[1] == found[2].confidence[1] == 1
    other = frames.copy()
    other[2, 0, 0] ^= 1
    assert (masks_of(learned.segment(other, **IDS))[2] != drawn).any()


def test_void_in_a_given_mask_is_found(frames, mask, parent):
    with_void = mask.copy()
    with_void[:, 40:] = VOID
    learned = osvos_tf.learn(frames, {0: with_void}, parent=parent, **QUICK)
    (first, *_) = learned.segment(frames, **IDS)
    np.testing.assert_array_equal(first.mask[:, :40], mask[:, :40])
    assert set(np.unique(first.mask)) <= {0, 1}


def test_masks_of_all_kinds(bear, frames, mask, parent, tmp_path):
    """A path, an image and arrays that mean the same teach the same."""
    Image.fromarray(mask * 255).save(tmp_path / "mask.png")
    kinds = [
        tmp_path / "mask.png", str(tmp_path / "mask.png"), Image.open(tmp_path / "mask.png"),
        mask, mask == 1, mask * 255, mask[..., None], mask.astype(np.int64), mask.astype(float),
    ]  # fmt: skip
    for kind in kinds:
        np.testing.assert_array_equal(read_mask(kind), mask)
    np.testing.assert_array_equal(read_mask(mask * 7), mask)
    np.testing.assert_array_equal(read_mask(mask * 7 + (mask == 0) * 3, 3), mask == 0)


def test_an_object_of_a_label_map(frames, mask, parent):
    labels = mask * 2
    labels[30:40, 50:60] = 5
    learned = osvos_tf.learn(frames, {0: labels}, parent=parent, object=5, **QUICK)
    assert dict(learned.objects) == {5: "object 5"}
    (first, *_) = learned.segment(frames, **IDS)
    np.testing.assert_array_equal(first.mask, np.where(labels == 5, 5, 0))
    assert set(first.probability) == set(first.confidence) == {5}


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({}, "Wanted masks by frame"),
        (np.ones((48, 80)), "Wanted masks by frame"),
        ({9: np.eye(48, 80)}, "Wanted a frame's position, 0 to 3"),
        ({"x": np.eye(48, 80)}, "Wanted frame 'x'"),
        ({0: np.eye(48, 80), "00000": np.eye(48, 80)}, "Two masks annotate frame '00000'"),
        ({0: np.eye(8, 9)}, "is 9x8 .*, frame '00000' is 80x48"),
        ({0: np.zeros((48, 80))}, "no object pixel"),
        ({0: np.ones((48, 80))}, "no background pixel"),
        ({0: np.full((48, 80), 0.3)}, "Threshold probabilities first"),
        ({0: np.zeros((48, 80, 2, 2))}, r"Got an array of shape \(48, 80, 2, 2\)"),
        ({0: "absent.png"}, "'absent.png' does not exist"),
    ],
)
def test_masks_that_teach_nothing(frames, masks, message):
    with pytest.raises(InputError, match=message):
        osvos_tf.learn(frames, masks)


def test_options_of_another_name_or_type(frames, mask, dog):
    with pytest.raises(TypeError, match=r"No option is called update\. Wanted some of: parent"):
        osvos_tf.learn(frames, {0: mask}, update=3)
    with pytest.raises(TypeError, match="must be a SegmentOptions"):
        dog.segment(frames, options=LearnOptions())
    with pytest.raises(InputError, match="Wanted `snap` to be one of"):
        dog.segment(frames, snap="hard")  # told at once, not by the first frame


# --- a specialist is a value ----------------------------------------------------------------------


def test_correcting_makes_another(dog, frames, mask, bear):
    before = [array.copy() for array in dog.network.get_weights()]
    second = read_mask(bear.frames[2].mask)
    better = dog.correct(frames, {2: second}, updates=2)
    for array, then in zip(dog.network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(array, then)
    assert [known.name for known in dog.annotations] == ["00000"]
    assert [known.name for known in better.annotations] == ["00000", "00002"]
    assert any(
        (new != old).any() for new, old in zip(better.network.get_weights(), before, strict=True)
    )
    found = list(better.segment(frames, **IDS))
    np.testing.assert_array_equal(found[0].mask, mask)
    np.testing.assert_array_equal(found[2].mask, second)
    again = better.correct(frames, {2: mask}, updates=1)  # a frame's last mask counts
    assert [known.name for known in again.annotations] == ["00000", "00002"]
    np.testing.assert_array_equal(again.annotations[1].mask, mask)


def test_a_correction_takes_a_third_of_the_updates(quick, frames, mask, parent):
    learned = osvos_tf.learn(frames, {0: mask}, parent=parent, updates=6)
    learned.correct(frames, {1: mask}).correct(frames, {2: mask})
    learned.correct(frames, {1: mask}, updates=5)
    assert [stage.updates for stage in quick] == [6, 2, 2, 5]
    quick.clear()
    learned = osvos_tf.learn(frames, {0: mask}, parent=parent)
    learned.correct(frames, {1: mask}).correct(frames, {2: mask})
    third = round(quick[0].updates / 3)
    assert [stage.updates for stage in quick[1:]] == [third, third]  # in every round
    within = osvos_tf.learn(frames, {0: mask}, parent=parent, budget=6.0)
    assert specialist._for_correction(within.options).budget == 2.0


def test_corrections_of_another_size(dog, mask):
    with pytest.raises(InputError, match=r"known so far are 80x48 .* these are 80x40"):
        dog.correct(np.zeros((2, 40, 80, 3), np.uint8), {0: mask[:40]})


def test_nothing_of_a_value_can_be_set(dog):
    with pytest.raises(dataclasses.FrozenInstanceError):
        dog.network = None


def test_saved_and_loaded(dog, frames, tmp_path):
    dog.save(tmp_path / "dog")
    loaded = osvos_tf.load(tmp_path / "dog")
    assert (loaded.options, dict(loaded.objects), loaded.losses) == (
        dog.options,
        dict(dog.objects),
        dog.losses,
    )
    np.testing.assert_array_equal(
        masks_of(loaded.segment(frames, **IDS)), masks_of(dog.segment(frames, **IDS))
    )
    dog.save(tmp_path / "dog")  # the same again is fine
    with pytest.raises(InputError, match="finished results made with another specialist"):
        loaded.correct(frames, {1: dog.annotations[0].mask}, updates=1).save(tmp_path / "dog")
    assert len(osvos_tf.load(tmp_path / "dog").annotations) == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"did not make \(notes.txt\)"):
        dog.save(tmp_path / "mine", overwrite=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_bare_network_segments_without_a_mask(dog, frames, tmp_path):
    save_model(dog.network, tmp_path / "dog.keras")
    loaded = osvos_tf.load(tmp_path / "dog.keras")
    assert loaded.annotations == ()
    assert masks_of(loaded.segment(frames, **IDS)).shape == frames.shape[:3]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / specialist.NETWORK).unlink(), "No specialist.keras in"),
        (lambda folder: (folder / specialist.RECORD).unlink(), "is damaged"),
        (lambda folder: (folder / specialist.RECORD).write_text("[]"), "is damaged"),
        (lambda folder: (folder / specialist.RECORD).write_text("{"), "is damaged"),
        (lambda folder: (folder / "annotations/00000.mask.png").write_bytes(b"x"), "is damaged"),
        (lambda folder: (folder / "annotations/00000.frame.png").unlink(), "cannot be read"),
        (lambda folder: (folder / specialist.NETWORK).write_bytes(b"x"), "not a .keras file"),
    ],
)
def test_damaged_specialists(dog, tmp_path, damage, message):
    dog.save(tmp_path / "dog")
    damage(tmp_path / "dog")
    with pytest.raises(InputError, match=message):
        osvos_tf.load(tmp_path / "dog")


def test_nothing_to_load(tmp_path):
    with pytest.raises(InputError, match="No model file"):
        osvos_tf.load(tmp_path / "absent")
    with pytest.raises(InputError, match=r"No specialist\.keras in"):
        osvos_tf.load(tmp_path)


def test_exported(dog, frames, tmp_path):
    import tensorflow as tf

    folder = dog.export(tmp_path / "saved_models" / "dog", threshold=0.6)
    assert folder == tmp_path / "saved_models" / "dog" / "1"
    served = tf.saved_model.load(str(folder)).signatures["serving_default"]
    masks = served(images=tf.constant(frames))["masks"].numpy()[..., 0]
    expected = model.build_predictor(dog.network).predict(frames, verbose=0)[..., 0] > 0.6
    assert np.mean(masks == expected) > 0.999


def test_one_frame_after_another(dog, frames, mask):
    """The stepper finds what whole batches find, and looks around a mask that it is given."""
    options = SegmentOptions(follow=False, smooth=False, **IDS)
    stepper = Segmenter(dog, frames.shape[1:3], options)
    whole = list(dog.segment(frames, options=options))
    for number, frame in enumerate(frames):
        found = stepper.step(frame, name=f"{number:05d}")
        assert np.mean(found.mask == whole[number].mask) > 0.999
    stepper = Segmenter(dog, frames.shape[1:3], SegmentOptions(**IDS))
    given = stepper.step(frames[1], mask, name="given")
    np.testing.assert_array_equal(given.mask, mask)
    assert stepper.step(frames[2]).mask.shape == mask.shape


# --- scores ---------------------------------------------------------------------------------------


def test_scores(bear, tmp_path):
    truth = np.stack([read_mask(frame.mask) for frame in bear.frames])
    folder = bear.frames[0].mask.parent
    assert osvos_tf.evaluate(truth, folder)[:2] == (1, 1)
    shifted = np.roll(truth, 5, axis=2)
    scores = osvos_tf.evaluate(shifted, truth)
    expected = metrics.sequence_scores(shifted == 1, truth == 1)
    assert scores == (expected.J.mean(), expected.F.mean(), expected.T)
    (tmp_path / "masks").mkdir()
    for number, one in enumerate(shifted):
        write_mask(tmp_path / "masks" / f"{number:05d}.png", one)
    assert osvos_tf.evaluate(tmp_path, folder) == osvos_tf.evaluate(list(shifted), folder) == scores
    void = truth.copy()
    void[truth != shifted] = VOID
    assert osvos_tf.evaluate(shifted, void).J == 1


def test_scores_that_cannot_be(bear, tmp_path):
    truth = np.stack([read_mask(frame.mask) for frame in bear.frames])
    for masks, message in (
        (truth[:3], "Wanted a mask for each true one"),
        (truth[:, :-1], "Wanted a mask for each true one"),
        (tmp_path, "00000.png' does not exist"),
        ([truth[0], truth[1][:-1]], "Wanted masks of one size"),
        (truth.astype(float) / 3, "Threshold probabilities first"),
    ):
        with pytest.raises(InputError, match=message):
            osvos_tf.evaluate(masks, bear.frames[0].mask.parent)
    with pytest.raises(InputError, match="No mask in"):
        osvos_tf.evaluate(truth, tmp_path)
    with pytest.raises(InputError, match="3 frames or more"):
        osvos_tf.evaluate(truth[:2], truth[:2])


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"recipe": "best"},
            "Wanted `recipe` to be one of imagenet, paper, plain, scratch. Got 'best'",
        ),
        ({"heads": "none"}, "Wanted `heads` to be one of"),
        ({"precision": "int8"}, "Wanted `precision` to be one of"),
        ({"updates": -1}, "`updates` must be 0 or more. Got -1"),
        ({"budget": 0}, "`budget` must be above 0"),
        ({"budget": float("nan")}, "`budget` must be above 0"),
        ({"height": 0}, "`height` must be above 0"),
        ({"crop": 0.01}, "Wanted `crop` from 0.1 to 1"),
        ({"frozen": 2}, "`frozen` needs `views`"),
        ({"frozen": 5, "views": 4}, "Wanted `frozen` from 0 to 4"),
        ({"updates": 0, "parent": "random"}, "learned nothing"),
    ],
)
def test_learn_options_that_do_not_fit(changes, message):
    with pytest.raises(InputError, match=message):
        LearnOptions(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 1.1}, "Wanted `threshold` from 0 to 1"),
        ({"threshold": float("nan")}, "Wanted `threshold` from 0 to 1"),
        ({"contour_threshold": -0.1}, "Wanted `contour_threshold` from 0 to 1"),
        ({"snap": "contour"}, "go together"),
        ({"contour": "c.keras"}, "go together"),
    ],
)
def test_segment_options_that_do_not_fit(changes, message):
    with pytest.raises(InputError, match=message):
        SegmentOptions(**changes)


def test_options_ask_for_a_stage():
    default = LearnOptions().stage()
    assert default == recipes.ONE_SHOTS["imagenet"] and default.side_weight == 0
    assert LearnOptions(updates=300).stage().updates == 300
    assert LearnOptions(budget=5).stage().updates >= 1_000_000
    assert LearnOptions(budget=5, updates=3).stage().updates == 3
    stage = LearnOptions(heads="all", views=8, frozen=2, crop=0.5, until_learned=False).stage()
    assert (stage.side_weight, stage.views, stage.frozen, stage.until_learned) == (1, 8, 2, False)
    assert stage.augmentation.crop == 0.5
    assert LearnOptions(recipe="paper").stage().optimizer == "momentum"


def test_the_recipe_suits_the_parent(tmp_path):
    """By how a network takes colours: as ImageNet's VGG16, or scaled as those from nothing."""
    paths = {}
    for start in ("imagenet", "scratch"):
        paths[start] = tmp_path / f"{start}.keras"
        network = model.build_foreground(width_multiplier=1 / 64, start=start, seed=1)
        save_model(network, paths[start])
    (tmp_path / "damaged.keras").write_bytes(b"x")
    for parent, recipe in (
        ("full", "imagenet"),
        ("compact", "scratch"),
        ("random", "scratch"),
        (paths["imagenet"], "imagenet"),
        (paths["scratch"], "scratch"),
        (tmp_path / "absent.keras", "scratch"),
        (tmp_path / "damaged.keras", "scratch"),
    ):
        assert LearnOptions(parent=parent).stage() == recipes.ONE_SHOTS[recipe]
    assert LearnOptions(recipe="paper").stage() == recipes.ONE_SHOTS["paper"]


def test_flags_and_options_have_the_same_names_and_defaults():
    args = cli.parse(segment.FLAGS, ["--frames=x", "--mask=m", "--out=o"])
    assert shared_flags.read_options(LearnOptions, args) == LearnOptions()
    assert shared_flags.read_options(SegmentOptions, args) == SegmentOptions()
    assert json.loads(json.dumps(dataclasses.asdict(LearnOptions())))["parent"] == "full"
    assert all(path.is_file() for path in PARENTS.values())
