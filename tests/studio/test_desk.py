"""What the studio works on: drawn masks, objects, jobs; all on the disk at any time."""

import numpy as np
import pytest

from osvos_tf.errors import InputError
from osvos_tf.jobs import video_job
from osvos_tf.media.masks import write_labels
from osvos_tf.segmentation.options import LearnOptions, SegmentOptions
from osvos_tf.studio.assist import grab
from osvos_tf.studio.desk import Desk
from support import quick_specialist
from support.world import paint

SIZE = (48, 80)


@pytest.fixture
def open_desk(tmp_path):
    frames = paint(tmp_path / "DAVIS") / "JPEGImages/480p/bear"

    def open_() -> Desk:
        out = str(tmp_path / "results" / "bear")
        return Desk(str(frames), out, LearnOptions(), SegmentOptions(), ())

    return open_


def square(id_=1, side=9):
    labels = np.zeros(SIZE, np.uint8)
    labels[5 : 5 + side, 5 : 5 + side] = id_
    return labels


def test_all_is_there_when_it_is_opened_again(open_desk):
    desk = open_desk()
    assert (desk.objects, desk.drawn(), desk.record(), desk.rounds()) == (
        {1: "object 1"},
        [],
        None,
        [],
    )
    assert desk.name_object(None, " the  cat ") == 2
    desk.draw(0, square())
    desk.draw(2, square(2))
    again = open_desk()
    assert again.objects == {1: "object 1", 2: "the cat"} and again.drawn() == [0, 2]
    labels, source = again.mask(2)
    np.testing.assert_array_equal(labels, square(2))
    assert source == "drawn" and again.mask(1) == (None, "none")
    again.draw(2, square() * 0)  # taken back
    assert open_desk().drawn() == [0]


def test_what_cannot_be_drawn(open_desk):
    desk = open_desk()
    with pytest.raises(InputError, match=r"This mask is 79x48 .*, the frame 80x48"):
        desk.draw(0, np.zeros((48, 79), np.uint8))
    with pytest.raises(InputError, match=r"no object 7\. Add it first"):
        desk.draw(0, square(7))
    with pytest.raises(InputError, match="Nothing is drawn yet"):
        desk.job()
    with pytest.raises(InputError, match="no object 9"):
        desk.name_object(9, "cat")
    with pytest.raises(InputError, match="up to 80 characters"):
        desk.name_object(1, "x" * 81)
    with pytest.raises(InputError, match="There is no round '007'"):
        desk.back("007")
    assert desk.drawn() == []


def test_rounds_of_learning(open_desk, monkeypatch):
    """It goes on from what is there; with a new object it learns anew, and keeps what was there."""
    trainings = quick_specialist.install(monkeypatch)
    desk = open_desk()
    desk.draw(0, square())
    assert desk.news() == [0] and desk.job().specialist is None
    video_job.run(desk.job())
    assert desk.record() is not None and desk.rounds() == []
    np.testing.assert_array_equal(desk.mask(1)[0] > 0, square() > 0)
    assert desk.mask(1)[1] == "found"

    desk.draw(2, square(side=5))
    job = desk.job()
    assert job.specialist == str(desk.out)
    video_job.run(job)
    assert desk.rounds() == ["001"] and len(trainings) == 2

    desk.name_object(None, "")
    desk.draw(1, square(2))
    desk.draw(0, square() + np.roll(square(2), 20, axis=1))
    job = desk.job()
    assert job.specialist is None
    desk.draw(2, square() * 0)  # with ids there are no masks that do not say which
    video_job.run(desk.job())
    assert desk.rounds() == ["001", "002"]
    np.testing.assert_array_equal(desk.mask(0)[0], square() + np.roll(square(2), 20, axis=1))

    video_job.run(desk.back("001"))
    desk.forget_drawn()
    assert desk.rounds() == ["001", "002", "003"] and desk.drawn() == []
    assert desk.record()["objects"] == {"1": "object 1"}


def test_what_is_being_made_is_seen(open_desk):
    desk = open_desk()
    draft = desk.out.with_name(".bear.unfinished") / "masks"
    draft.mkdir(parents=True)
    write_labels(draft / "00003.png", square())
    assert desk.mask(3)[0] is None
    np.testing.assert_array_equal(desk.mask(3, running=True)[0], square())
    (draft / "00003.png").write_bytes(b"half of it")
    assert desk.mask(3, running=True) == (None, "none")


def test_a_box_becomes_the_object_in_it():
    random = np.random.default_rng(0)
    image = random.integers(60, 90, (120, 200, 3), np.uint8)
    rows, columns = np.ogrid[:120, :200]
    truth = (rows - 60) ** 2 + (columns - 100) ** 2 <= 30**2
    image[truth] += 120
    found = grab(image, (60, 20, 142, 100))
    assert (found & truth).sum() / (found | truth).sum() > 0.95
    assert not found[:20].any() and not found[:, :60].any()
    whole = grab(image, (-5, -5, 900, 900))  # nothing is around: all of it
    assert whole.shape == truth.shape
    with pytest.raises(InputError, match="too small"):
        grab(image, (300, 20, 310, 30))
