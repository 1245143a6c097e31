"""SIGKILL at random moments: the next run completes, and its results are an undisturbed run's.

Each command is killed again and again over what the killed ones before it left, then run to its
end. `test_davis_to_tfrecord.py` and `test_evaluate.py` do the same to theirs.
"""

import itertools
import json
import os
import shutil
import signal

import numpy as np
import pytest

from osvos_tf.data import davis
from osvos_tf.network import model
from osvos_tf.network.files import load_model
from osvos_tf.serving import client
from osvos_tf.serving import server as model_server
from support.commands import FEW_AND_MANY, moments
from support.toy_model import wait_until

WIDTH = 1 / 32
pytestmark = pytest.mark.slow


def weights(path):
    return load_model(path).get_weights()


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def content(folder):
    """Everything in a folder by its path, hidden files too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@FEW_AND_MANY
def test_training(commands, fake_records, tmp_path, count, anywhere):
    """Most of its time goes into checkpoints, so most moments are in the middle of one."""
    recipe = "scratch" if anywhere else "imagenet"  # two stages, or one
    flags = [
        f"--records={fake_records}", f"--recipe={recipe}", "--weights=random",
        "--precision=float32",
        f"--width_multiplier={WIDTH}", "--height=32", "--updates=12", "--checkpoint_seconds=0",
    ]  # fmt: skip
    undisturbed, workdir = tmp_path / "undisturbed", tmp_path / "killed"

    def checkpoints(folder=workdir):
        return sorted(path.name for path in folder.glob("checkpoints/*.index"))

    seconds = commands.run(
        "train_parent",
        [*flags, f"--workdir={undisturbed}"],
        once=None if anywhere else lambda: checkpoints(undisturbed),
    )
    expected = weights(undisturbed / "parent.keras")
    kills = 0
    for moment in moments(seconds, count):
        was_killed = commands.kill(
            "train_parent",
            [*flags, f"--workdir={workdir}"],
            moment,
            once=None if anywhere else checkpoints,
        )
        kills += was_killed
        if (workdir / "parent.keras").exists():
            assert_same(weights(workdir / "parent.keras"), expected)
            shutil.rmtree(workdir)
        else:
            assert was_killed
    assert kills
    before = checkpoints()
    status, text = commands.finish("train_parent", [*flags, f"--workdir={workdir}"])
    has_more_to_do = bool(before) and "ckpt-12.index" not in before
    assert status == 0 and ("went on from update" in text) == has_more_to_do, text
    assert_same(weights(workdir / "parent.keras"), expected)
    assert model.working_height(load_model(workdir / "parent.keras")) == 32
    assert sorted(path.name for path in workdir.iterdir()) == sorted(
        path.name for path in undisturbed.iterdir()
    )
    kept = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert not [name for name in kept if "temp" in name]


@pytest.fixture
def frames(fake_davis):
    """bear with more frames, so that more moments are among its masks."""
    (bear,) = davis.read_split(fake_davis, "train", sequences=["bear"])
    folder = bear.frames[0].image.parent
    for number in range(4, 30):
        shutil.copy(bear.frames[number % 4].image, folder / f"{number:05d}.jpg")
    return [f"--frames={folder}", f"--mask={bear.frames[0].mask}"]


@FEW_AND_MANY
def test_results_of_segment_are_the_old_ones_or_the_new_ones(
    commands, frames, parent, tmp_path, count, anywhere
):
    """In a folder where a person has laid files of their own."""
    flags = [*frames, f"--parent={parent}", "--updates=0", "--precision=float32", "--overwrite"]
    works = {"a": [*flags, "--probabilities"], "b": [*flags, "--snap=none", "--threshold=0.5"]}
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    mine = {"notes.txt": b"mine", "masks/00003.corrected.png": b"mine"}

    def whole():
        """Which of the works' results are there, once they have proved whole."""
        found = content(out)
        assert {name: found.pop(name) for name in mine} == mine
        record = json.loads(found.pop("run.json"))
        (name,) = (name for name in works if record["work"] == records[name]["work"])
        assert all(record[entry] == records[name][entry] for entry in ("found", "contents"))
        for folder, files in ((out, found), (undisturbed / name, expected[name])):
            for file in ("run.json", "specialist.json"):  # they hold times
                assert json.loads((folder / file).read_text())
                files.pop(file, None)
        assert found == expected[name]
        return name

    def drafts():
        return [path for folder in (tmp_path, undisturbed) for path in folder.glob(".*/masks/*")]

    once = None if anywhere else drafts
    seconds = min(  # of the second, since the first one loads more
        commands.run("segment", [*works[name], f"--out={undisturbed / name}"], once)
        for name in works
    )
    expected = {name: content(undisturbed / name) for name in works}
    records = {name: json.loads(expected[name]["run.json"]) for name in works}
    shutil.copytree(undisturbed / "a", out)
    for name, data in mine.items():
        (out / name).write_bytes(data)
    signals = itertools.cycle((signal.SIGKILL, signal.SIGINT, signal.SIGTERM))
    kills = 0
    for moment, number in zip(moments(seconds, count), signals, strict=False):
        before = whole()
        wanted = "b" if before == "a" else "a"
        command = [*works[wanted], f"--out={out}"]
        was_killed = commands.kill("segment", command, moment, number, once)
        after = whole()
        assert was_killed or after == wanted
        kills += was_killed
    assert kills >= count / 3  # a run that goes on from a killed one may be done before its moment
    for wanted in ("a", "b"):
        commands.run("segment", [*works[wanted], f"--out={out}"])
        assert whole() == wanted
    assert not list(tmp_path.glob(".*"))


def test_masks_that_were_being_written_are_made_by_the_specialist_that_was_learned(
    commands, frames, parent, tmp_path
):
    flags = [*frames, f"--parent={parent}", "--updates=1", "--precision=float32"]
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    commands.run("segment", [*flags, f"--out={undisturbed}"])
    draft = tmp_path / ".out.unfinished"
    child, wait = commands.start("segment", [*flags, f"--out={out}"])
    wait_until(lambda: list(draft.glob("masks/*.png")), seconds=300)
    os.kill(child, signal.SIGKILL)
    assert wait()[0] == -signal.SIGKILL
    assert not out.exists()
    learned = (draft / "specialist.keras").stat()
    status, text = commands.finish("segment", [*flags, f"--out={out}"])
    assert status == 0, text
    assert "The object has been learned before; that specialist is used." in text
    assert "Learning the object" not in text
    assert os.path.samestat((out / "specialist.keras").stat(), learned)
    found, expected = content(out), content(undisturbed)
    assert found.keys() == expected.keys()
    for name in expected.keys() - {"run.json", "specialist.json"}:
        assert found[name] == expected[name], name
    entries = ("work", "contents", "found", "updates", "losses", "remarks")
    ours, theirs = (json.loads(files["run.json"]) for files in (found, expected))
    assert [ours[entry] for entry in entries] == [theirs[entry] for entry in entries]
    status, text = commands.finish("segment", [*flags, f"--out={out}"])
    assert status == 0 and "holds these results already, whole" in text


@FEW_AND_MANY
def test_export_and_serving_swap(commands, parent, tmp_path, count, anywhere):
    """While exports are killed, the server goes on with the last version that is whole."""
    folder = tmp_path / "saved_models" / "dog"
    flags = [f"--model={parent}", f"--out={folder}"]
    once = None if anywhere else lambda: len(list(folder.rglob("*")))
    seconds = commands.run("export_saved_model", flags, once)
    frames = np.random.default_rng(0).integers(0, 255, (1, 24, 40, 3), np.uint8)
    with (
        model_server.ModelServer({"dog": folder}, poll_seconds=0.05) as server,
        client.connect(f"127.0.0.1:{server.grpc_port}", "dog") as predict,
    ):
        expected = predict(frames)
        versions, kills = {1}, 0
        for moment in moments(seconds, count):
            kills += commands.kill("export_saved_model", flags, moment, once=once)
            found = {int(path.name) for path in folder.iterdir() if path.name.isdecimal()}
            versions |= found
            np.testing.assert_array_equal(predict(frames), expected)
            assert server.models["dog"].version in versions
        assert kills
        broken = [state for state in server.models["dog"].states() if state[2] is not None]
        assert not broken  # a version that shows is whole
        commands.run("export_saved_model", flags)
        versions = {int(path.name) for path in folder.iterdir() if path.name.isdecimal()}
        wait_until(lambda: server.models["dog"].version == max(versions))
        np.testing.assert_array_equal(predict(frames), expected)
