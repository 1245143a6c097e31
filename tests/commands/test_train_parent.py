"""The command `train_parent` as a user meets it: real processes, killed ones among them."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from osvos_tf import runtime
from osvos_tf.commands import cli, train_parent
from osvos_tf.errors import InputError
from osvos_tf.network.files import load_model
from support import foreign
from support.commands import SECONDS, in_background, wait_for
from support.world import REPOSITORY


def to_flags(values):
    return [f"--{name}={value}" for name, value in values.items()]


@pytest.fixture
def start():
    """Starts the command in the background."""
    with in_background(REPOSITORY) as start:
        yield lambda **flags: start("train_parent", to_flags(flags))


@pytest.fixture
def run(commands):
    """Runs the command in a process; returns its status and what it said."""
    return lambda **flags: commands.finish("train_parent", to_flags(flags))


def tiny(records, workdir, **flags):
    return {
        "records": records,
        "workdir": workdir,
        "recipe": "imagenet",
        "weights": "random",
        "width_multiplier": 0.0625,
        "height": 48,
        "precision": "float32",
        "updates": 40,
        "seed": 3,
        **flags,
    }


def assert_refused(end, *words):
    """One message, status 2, no traceback."""
    status, said = end
    assert status == 2, said
    assert "Traceback" not in said
    assert said.startswith("train_parent: ")
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"updates": -1}, ["--updates must be above 0", "-1"]),
        ({"updates": "many"}, ["--updates", "many"]),
        ({"height": 0}, ["--height must be above 0"]),
        ({"checkpoint_seconds": -1}, ["checkpoint_seconds"]),
        ({"recipe": "caffe"}, ["recipe", "caffe", "paper"]),
        ({"weights": "imagenet", "width_multiplier": 0.5}, ["--weights=imagenet", "0.5"]),
        ({"learning_rate": 1}, ["learning_rate"]),
        ({"workdir": "{tmp_path}/file/inside"}, ["{tmp_path}/file/inside", "output folder"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_mistakes_in_flags_are_explained(run, flags, words, fake_records, tmp_path):
    (tmp_path / "file").touch()

    def fill(text):
        return text.format(tmp_path=tmp_path) if isinstance(text, str) else text

    flags = {name: fill(value) for name, value in flags.items()}
    end = run(**{**tiny(fake_records, tmp_path / "run", updates=1), **flags})
    assert_refused(end, *map(fill, words))
    assert not (tmp_path / "run").exists()


def test_required_flags_are_named(run):
    assert_refused(run(records="somewhere"), "--workdir")


def test_a_missing_records_folder_is_explained(run, tmp_path):
    end = run(**tiny(tmp_path / "none", tmp_path / "run"))
    assert_refused(end, str(tmp_path / "none"), "davis_to_tfrecord")
    assert not list((tmp_path / "run").iterdir())


def test_weights_that_are_no_model_are_explained(run, fake_records, tmp_path):
    text = tmp_path / "parent.keras"
    text.write_text("not a model")
    flags = tiny(fake_records, tmp_path / "run", weights=text)
    assert_refused(run(**flags), "leave out --width_multiplier")
    del flags["width_multiplier"]
    assert_refused(run(**flags), str(text), "is not a .keras file", "a PyTorch file")
    assert not (tmp_path / "run" / "parent.keras").exists()


def test_training_starts_from_vgg16_in_a_file(run, fake_records, tmp_path):
    arrays = foreign.random_arrays(foreign.TRUNK)
    state = {}
    for (ours, *_), place in zip(foreign.TRUNK, foreign.TORCHVISION, strict=True):
        state[f"features.{place}.weight"], state[f"features.{place}.bias"] = arrays[ours]
    foreign.write_torch_zip(tmp_path / "vgg16", state)
    flags = tiny(fake_records, tmp_path / "run", weights=tmp_path / "vgg16", updates=1)
    del flags["width_multiplier"]
    status, said = run(**flags)
    assert status == 0, said
    network = load_model(tmp_path / "run" / "parent.keras")
    assert network.get_layer("preprocess").scale == 1.0
    found = network.get_layer("block4_conv2").get_weights()[0]
    moved = np.abs(found - arrays["block4_conv2"][0].transpose(2, 3, 1, 0))
    assert 0 < moved.max() < 1e-3


@pytest.fixture
def train(monkeypatch):
    """A function of flags that runs the command in this process, where TensorFlow is at work."""
    monkeypatch.setattr(runtime, "import_tensorflow", lambda: None)

    def train(**flags):
        train_parent.main(cli.parse(train_parent.FLAGS, to_flags(flags)))

    return train


@pytest.fixture
def flags(fake_records, tmp_path):
    """A very short training."""
    return tiny(fake_records, tmp_path / "run", updates=2)


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_command_again_leaves_the_network_as_it_is(train, flags, tmp_path, capsys):
    train(**flags)
    workdir = tmp_path / "run"
    before = (workdir / "parent.keras").read_bytes()
    train(**flags)
    assert (workdir / "parent.keras").read_bytes() == before
    shutil.rmtree(workdir / "checkpoints")  # to make room
    with pytest.raises(InputError, match=r"run with other flags: --seed=3 \(now 4\)"):
        train(**{**flags, "seed": 4})
    capsys.readouterr()
    train(**flags)
    assert "is there already; its checkpoints are gone" in capsys.readouterr().out
    assert (workdir / "parent.keras").read_bytes() == before
    assert not (workdir / "checkpoints").exists()


def test_two_runs_in_one_folder(start, run, flags, tmp_path):
    """The second is told at once, long before TensorFlow is loaded."""
    workdir = tmp_path / "run"
    first = start(**{**flags, "updates": 100_000, "checkpoint_seconds": 0})
    wait_for((workdir / "checkpoints" / "checkpoint").is_file, first)
    before = (workdir / "flags.json").read_bytes()
    assert_refused(run(**flags), f"Another run is writing to '{workdir}' right now")
    assert (workdir / "flags.json").read_bytes() == before
    first.kill()
    first.communicate()
    second = run(**{**flags, "updates": 100_000, "seed": 4})  # the lock ended with its holder
    assert_refused(second, "run with other flags", "--seed=3 (now 4)")
    assert not (workdir / ".lock").exists()


@pytest.mark.parametrize("name", ["parent.keras", "contour.keras", "checkpoints", "summaries"])
def test_what_no_run_made_is_left_alone(train, flags, tmp_path, name):
    path = tmp_path / "run" / name
    path.parent.mkdir()
    if "." not in name:
        path.mkdir()
        path = path / "ckpt-1.index"
    path.write_text("mine")
    before = content(tmp_path)
    with pytest.raises(InputError, match=rf"run holds {name} and no flags\.json"):
        train(**flags)
    assert content(tmp_path) == before


@pytest.mark.parametrize("text", ["", "[]", '{"flags": "mine"}', "{" * 100_000])
def test_a_flags_json_of_others_is_left_alone(train, flags, tmp_path, text):
    path = tmp_path / "run" / "flags.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(InputError, match=r"flags\.json is damaged or not ours"):
        train(**flags)
    assert path.read_text() == text


def test_a_network_that_an_unfinished_run_did_not_make_is_left_alone(train, flags, tmp_path):
    train(**{**flags, "checkpoint_seconds": 0})
    workdir = tmp_path / "run"
    for path in (workdir / "checkpoints").glob("ckpt-2.*"):
        path.unlink()
    (workdir / "parent.keras").write_text("mine")
    with pytest.raises(InputError, match=r"at update 1 of 2, so it did not make the parent\.keras"):
        train(**flags)
    assert (workdir / "parent.keras").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weights", "run/parent.keras"),
        ("weights", "link/parent.keras"),
        ("weights", "run/checkpoints/ckpt-2"),
        ("records", "run/checkpoints"),
        ("records", "run/summaries/records"),
    ],
)
def test_inputs_where_it_would_write_are_refused(train, flags, tmp_path, name, value):
    for path in ("parent.keras", "flags.json", "checkpoints/ckpt-2.index"):
        (tmp_path / "run" / path).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / path).write_text("ours")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    before = content(tmp_path / "run")
    flags = {**flags, name: tmp_path / value}
    if name == "weights":
        del flags["width_multiplier"]
    with pytest.raises(InputError, match=f"--{name}=.*{value} lies where this run would write"):
        train(**flags)
    assert content(tmp_path / "run") == before


def test_help_names_every_flag_and_exits_well():
    process = subprocess.run(
        [sys.executable, "-m", "pipelines.train_parent", "--help"],
        cwd=REPOSITORY,
        text=True,
        capture_output=True,
        timeout=SECONDS,
    )
    assert process.returncode == 0
    assert process.stdout.startswith("Trains the parent network")
    for name in tiny("", ""):
        assert re.search(rf"^  --{name}(=<.*>)?: ", process.stdout, re.MULTILINE)
    assert "--checkpoint_seconds: " in process.stdout
    assert not process.stderr
