"""The export command: what it leaves, what it says, what it refuses."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import osvos_tf
from osvos_tf.commands import cli, export_saved_model
from osvos_tf.errors import InputError
from osvos_tf.network import model
from osvos_tf.network.files import save_model
from support.world import REPOSITORY


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """Folder with a tiny foreground.keras and contour.keras."""
    folder = tmp_path_factory.mktemp("networks")
    tiny = {"width_multiplier": 1 / 16, "start": "scratch", "seed": 1}
    save_model(model.build_foreground(**tiny), folder / "foreground.keras")
    save_model(model.build_contour(**tiny), folder / "contour.keras")
    return folder


@pytest.fixture
def arguments(networks, tmp_path):
    """Flags by name, for tests to change."""
    return {"model": networks / "foreground.keras", "out": tmp_path / "saved_models" / "dog"}


def run(arguments):
    flags = [f"--{name}={value}" for name, value in arguments.items() if value is not None]
    export_saved_model.main(cli.parse(export_saved_model.FLAGS, flags))


def test_ids_come_from_the_specialists_folder(networks, tmp_path, arguments):
    frames = np.random.default_rng(0).integers(0, 255, (2, 48, 64, 3), np.uint8)
    labels = np.zeros((48, 64), np.uint8)
    labels[8:20, 8:20], labels[24:40, 30:50] = 4, 9
    both = osvos_tf.learn(
        frames, {0: labels}, parent=networks / "foreground.keras", updates=1, precision="float32"
    )
    both.save(tmp_path / "both")
    for number, path in enumerate(("both", "both/specialist.keras"), start=1):
        run({**arguments, "model": tmp_path / path, "threshold": 0.0})
        served = load(arguments["out"] / str(number)).signatures["serving_default"]
        assert set(np.unique(served(images=tf.constant(frames))["masks"])) <= {4, 9}
    (tmp_path / "bare.keras").write_bytes((tmp_path / "both/specialist.keras").read_bytes())
    run({**arguments, "model": tmp_path / "bare.keras", "threshold": 0.0})
    served = load(arguments["out"] / "3").signatures["serving_default"]
    assert set(np.unique(served(images=tf.constant(frames))["masks"])) <= {1, 2}


def load(folder):
    return tf.saved_model.load(str(folder))


def test_what_it_leaves(arguments, networks, capsys):
    run(arguments)
    out = arguments["out"]
    assert {path.name for path in out.parent.iterdir()} == {
        "batching.config",
        "compose.yaml",
        "dog",
        "models.config",
    }
    assert [path.name for path in out.iterdir()] == ["1"]
    assert f"osvos-serve --model=dog:{out}" in capsys.readouterr().out
    run({**arguments, "contour": networks / "contour.keras"})
    run({**arguments, "version": 9})
    assert {path.name for path in out.iterdir()} == {"1", "2", "9"}
    for version, contours in (("1", False), ("2", True), ("9", False)):
        outputs = load(out / version).signatures["serving_default"].structured_outputs
        assert ("contours" in outputs) == contours


def test_what_lies_in_the_folder_stays(arguments, networks, capsys):
    """The network that is exported, say: a version is added beside it."""
    out = arguments["out"]
    out.mkdir(parents=True)
    shutil.copy(networks / "foreground.keras", out)
    (out / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    run({**arguments, "model": out / "foreground.keras"})
    after = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert after == before and load(out / "1").signatures
    served = {path: path.read_bytes() for path in (out / "1").rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="A server may be using it, so it is not replaced"):
        run({**arguments, "version": 1})
    assert served == {path: path.read_bytes() for path in (out / "1").rglob("*") if path.is_file()}


def test_threshold_is_the_servers(arguments):
    run({**arguments, "threshold": 0.25})
    loaded = load(arguments["out"] / "1")
    frames = np.random.default_rng(0).integers(0, 256, (1, 24, 32, 3), dtype=np.uint8)
    outputs = loaded.signatures["serving_default"](images=tf.constant(frames))
    np.testing.assert_array_equal(outputs["masks"], outputs["probabilities"].numpy() > 0.25)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "absent.keras"}, "No model file"),
        ({"model": "contour.keras"}, "Wanted a foreground network"),
        ({"contour": "foreground.keras"}, "Wanted a contour network"),
        ({"version": 0}, "number from 1"),
    ],
)
def test_refused_with_a_message_and_nothing_written(arguments, networks, changes, message):
    changes = {
        name: networks / value if name != "version" else value for name, value in changes.items()
    }
    with pytest.raises(InputError, match=message):
        run({**arguments, **changes})
    assert not arguments["out"].parent.exists()


@pytest.mark.slow
def test_exit_status_of_a_users_mistake(arguments):
    command = [sys.executable, "-m", "pipelines.export_saved_model"]
    for flags in (
        ["--model=absent.keras", f"--out={arguments['out']}"],
        ["--model=absent.keras"],
        ["--threshold=2", "--model=absent.keras", f"--out={arguments['out']}"],
    ):
        done = subprocess.run(
            [*command, *flags], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("export_saved_model: ") and "Traceback" not in done.stderr
