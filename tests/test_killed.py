"""SIGKILL at random moments: the next run completes, and its results are an undisturbed run's.

Each command is killed again and again over what the killed ones before it left, then run to its
end. `test_davis_to_tfrecord.py` does the same to the conversion.
"""

import json
import pathlib
import shutil

import numpy as np
import pytest
from commands import moments
from toy_model import wait_until

from osvos_tf import davis, model, model_server, serving

REPOSITORY = pathlib.Path(__file__).parents[1]
WIDTH = 1 / 32
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    path = tmp_path_factory.mktemp("parent") / "parent.keras"
    model.save_model(model.build_foreground(width_multiplier=WIDTH, start="scratch", seed=1), path)
    return path


def weights(path):
    return model.load_model(path).get_weights()


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


def test_training(commands, fake_records, tmp_path):
    """Most of its time goes into checkpoints, so most moments are in the middle of one."""
    flags = [
        f"--records={fake_records}", "--recipe=scratch", "--weights=random", "--precision=float32",
        f"--width_multiplier={WIDTH}", "--height=32", "--updates=60", "--checkpoint_seconds=0",
    ]  # fmt: skip
    undisturbed, workdir = tmp_path / "undisturbed", tmp_path / "killed"
    seconds = commands.run("train_parent", [*flags, f"--workdir={undisturbed}"])
    expected = weights(undisturbed / "parent.keras")
    kills = 0
    for moment in moments(seconds):
        was_killed = commands.kill("train_parent", [*flags, f"--workdir={workdir}"], moment)
        kills += was_killed
        if (workdir / "parent.keras").exists():
            assert_same(weights(workdir / "parent.keras"), expected)
            shutil.rmtree(workdir)
        else:
            assert was_killed
    assert kills
    commands.run("train_parent", [*flags, f"--workdir={workdir}"])
    assert_same(weights(workdir / "parent.keras"), expected)
    assert sorted(path.name for path in workdir.iterdir()) == sorted(
        path.name for path in undisturbed.iterdir()
    )
    kept = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert not [name for name in kept if "temp" in name]


def test_masks(commands, fake_davis, parent, tmp_path):
    (bear,) = davis.read_split(fake_davis, "train", sequences=["bear"])
    images = bear.frames[0].image.parent
    for number in range(4, 60):  # more masks, so that more moments are among them
        shutil.copy(bear.frames[number % 4].image, images / f"{number:05d}.jpg")
    flags = [
        f"--frames={images}", f"--mask={bear.frames[0].mask}", f"--parent={parent}", "--updates=1",
        "--precision=float32", "--probabilities",
    ]  # fmt: skip
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "killed"
    seconds = commands.run("segment", [*flags, f"--out={undisturbed}"])
    kills = 0
    for moment in moments(seconds):
        kills += commands.kill("segment", [*flags, f"--out={out}"], moment)
        for name, data in content(out).items():
            if name.startswith("masks/0"):
                assert data == (undisturbed / name).read_bytes()
    assert kills
    (out / "masks" / "of_another_video.png").write_bytes(b"left by a run that was killed")
    commands.run("segment", [*flags, f"--out={out}"])
    found, expected = content(out), content(undisturbed)
    assert set(found) == set(expected)
    for name in expected:
        if name.endswith(".png"):
            assert found[name] == expected[name], name
    assert_same(weights(out / "specialist.keras"), weights(undisturbed / "specialist.keras"))
    record = json.loads(found["run.json"])
    assert record["losses"] == json.loads(expected["run.json"])["losses"]


def test_export_and_serving_swap(commands, parent, tmp_path):
    """While exports are killed, the server goes on with the last version that is whole."""
    folder = tmp_path / "saved_models" / "dog"
    flags = [f"--model={parent}", f"--out={folder}"]
    seconds = commands.run("export_saved_model", flags)
    frames = np.random.default_rng(0).integers(0, 255, (1, 24, 40, 3), np.uint8)
    with (
        model_server.ModelServer({"dog": folder}, poll_seconds=0.05) as server,
        serving.connect(f"127.0.0.1:{server.grpc_port}", "dog") as predict,
    ):
        expected = predict(frames)
        versions, kills = {1}, 0
        for moment in moments(seconds):
            kills += commands.kill("export_saved_model", flags, moment)
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
