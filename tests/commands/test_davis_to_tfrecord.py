"""The command: what it leaves, what it says, and what is left when it is killed."""

import copy
import os
import shutil
import signal
import subprocess
import sys

import pytest
import tensorflow as tf

from osvos_tf import runtime
from osvos_tf.commands import cli, davis_to_tfrecord
from osvos_tf.data import tfrecord
from osvos_tf.errors import InputError
from support.commands import FEW_AND_MANY, Commands, moments
from support.world import REPOSITORY


@pytest.fixture
def convert(monkeypatch):
    """A function of flags that runs the command in this process, where TensorFlow is at work."""
    monkeypatch.setattr(runtime, "import_tensorflow", lambda: tf)

    def convert(*flags):
        davis_to_tfrecord.main(cli.parse(copy.deepcopy(davis_to_tfrecord.FLAGS), flags))

    return convert


def in_checkout(path=()):
    """Options for a process; `path` comes before the modules of this environment."""
    return {
        "cwd": REPOSITORY,
        "env": {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, REPOSITORY)))},
    }


def python(*arguments, path=()):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, **in_checkout(path)
    )


def command(*arguments, path=()):
    """Runs the command as a user does."""
    return python("-m", "pipelines.davis_to_tfrecord", *arguments, path=path)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def without_record(out):
    """Returns what is the same in every run: all but the record of flags and versions."""
    found = content(out)
    del found["run.json"]
    return found


@pytest.fixture
def no_tensorflow(tmp_path):
    """A folder whose `tensorflow` cannot be imported."""
    folder = tmp_path / "without"
    folder.mkdir()
    (folder / "tensorflow.py").write_text("raise ImportError('TensorFlow was imported')")
    return folder


# --- as a process ---------------------------------------------------------------------------------


def test_command_leaves_records(fake_davis, tmp_path):
    out = tmp_path / "records"
    done = command(f"--davis={fake_davis}", "--split=train", f"--out={out}", "--height=24")
    assert done.returncode == 0, done.stderr
    shards = [f"train-{number:05d}-of-00008.tfrecord" for number in range(8)]
    assert sorted(content(out)) == ["manifest.json", "run.json", *shards]
    manifest = tfrecord.read_manifest(out)
    assert manifest["frames"] == 8 and manifest["height"] == 24
    assert done.stdout == f"Wrote 8 frames of 2 sequences in 8 shards, 0.0 MB, to {out}\n"
    assert len(done.stderr.splitlines()) == 1 and "8 of 8 frames" in done.stderr


def test_records_are_the_same_byte_for_byte_in_every_process(fake_davis, tmp_path, monkeypatch):
    written = []
    for seed, protobuf in (("1", "upb"), ("2", "python")):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        monkeypatch.setenv("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", protobuf)
        out = tmp_path / protobuf
        done = command(f"--davis={fake_davis}", "--split=train", f"--out={out}", "--height=24")
        assert done.returncode == 0, done.stderr
        written.append(without_record(out))
    assert len(written[0]) == 8 + 1 and written[0] == written[1]


def test_help_is_quick_and_complete(no_tensorflow):
    done = command("--help", path=[no_tensorflow])
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith(davis_to_tfrecord.__doc__.splitlines()[0])
    for flag in ("davis", "split", "out", "resolution", "sequences", "shards", "height"):
        assert f"--{flag}: " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--davis="], ["--davis"]),
        (["--split=tset"], ["'tset'", "480p/train", "480p/val"]),
        (["--sequences=bear,wolf"], ["'wolf'", "bear, goat"]),
        (["--resolution=1080p"], ["1080p"]),
        (["--shards=0"], ["--shards", "0"]),
        (["--height=-5"], ["--height", "-5"]),
        (["--height=many"], ["height", "many"]),
        (["--hight=24"], ["hight"]),
        (["train"], ["'train'", "--help"]),
        (["--out=DAVIS/ImageSets/480p/train.txt"], ["train.txt"]),
    ],
)
def test_mistakes_are_told_in_one_message_before_tensorflow_is_loaded(
    fake_davis, no_tensorflow, arguments, words
):
    flags = {"--davis": str(fake_davis), "--split": "train", "--out": str(fake_davis / "out")}
    arguments = [argument.replace("DAVIS", str(fake_davis)) for argument in arguments]
    defaults = [f"{name}={value}" for name, value in flags.items()]
    done = command(*defaults, *arguments, path=[no_tensorflow])
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("davis_to_tfrecord: ") and "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert not (fake_davis / "out").exists()


def test_required_flags_are_named(no_tensorflow):
    done = command(path=[no_tensorflow])
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert all(name in done.stderr for name in ("davis", "split", "out"))


# --- in this process ------------------------------------------------------------------------------


def test_chosen_sequences_and_fewer_frames_than_shards(convert, fake_davis, tmp_path, capsys):
    convert(
        f"--davis={fake_davis}", "--split=train", "--sequences=goat", f"--out={tmp_path / 'out'}"
    )
    manifest = tfrecord.read_manifest(tmp_path / "out")
    assert manifest["sequences"] == {"goat": 4} and len(manifest["shards"]) == 4
    assert capsys.readouterr().out.startswith("Wrote 4 frames of 1 sequences in 4 shards")


def test_split_with_its_folder(convert, fake_davis, tmp_path):
    convert(f"--davis={fake_davis}", "--split=480p/val", f"--out={tmp_path / 'out'}", "--shards=1")
    assert sorted(content(tmp_path / "out")) == [
        "480p-val-00000-of-00001.tfrecord",
        "manifest.json",
        "run.json",
    ]


def test_more_shards_than_frames(convert, fake_davis, tmp_path):
    with pytest.raises(InputError, match=r"shards. must be in 1\.\.4"):
        convert(f"--davis={fake_davis}", "--split=val", f"--out={tmp_path / 'out'}", "--shards=5")


def test_the_same_command_again(convert, fake_davis, tmp_path, capsys):
    out = tmp_path / "out"
    flags = [f"--davis={fake_davis}", "--split=val", f"--out={out}"]
    convert(*flags)
    (out / "notes.txt").write_text("mine")
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in out.iterdir()}
    capsys.readouterr()
    convert(*flags)
    assert "holds these records already" in capsys.readouterr().out
    assert before == {path: (path.stat().st_ino, path.read_bytes()) for path in out.iterdir()}
    convert(*flags, "--overwrite")
    assert {path: content for path, (_, content) in before.items()} == {
        path: path.read_bytes() for path in out.iterdir()
    } | {out / "run.json": before[out / "run.json"][1]}
    shard = next(out.glob("*.tfrecord"))
    shard.write_bytes(shard.read_bytes()[:-1])  # damaged: converted again
    convert(*flags)
    assert shard.read_bytes() == before[shard][1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "train"}, "another sequences, shards, split"),
        ({"height": 24}, "another height"),
        ({"shards": 2}, "another shards"),
        ({"davis": "other"}, "another davis"),
        ({"out": "DAVIS"}, "lies in '.*DAVIS', whose content would be replaced"),
        ({"out": "."}, "lies in '.*', whose content"),
        ({"out": "DAVIS/Annotations"}, r"holds what this command did not make \(480p\)"),
        ({"out": "mine"}, r"mine' holds what this command did not make \(notes\.txt\)"),
        ({"out": "mine", "overwrite": True}, r"mine' holds what this command did not make"),
        ({"out": "earlier"}, r"did not make \(manifest\.json, .*no run\.json"),
    ],
    ids=str,
)
def test_what_would_be_lost_is_refused_by_name(convert, fake_davis, tmp_path, changes, message):
    def flags(**changes):
        flags = {"davis": "DAVIS", "split": "val", "out": "out", **changes}
        places = {name: tmp_path / flags[name] for name in ("davis", "out")}
        return [f"--{name}={value}" for name, value in {**flags, **places}.items()]

    convert(*flags())
    shutil.copytree(fake_davis, tmp_path / "other")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    shutil.copytree(tmp_path / "out", tmp_path / "earlier")
    (tmp_path / "earlier" / "run.json").unlink()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    with pytest.raises(InputError, match=message):
        convert(*flags(**changes))
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    convert(*flags(height=24, overwrite=True))
    assert tfrecord.read_manifest(tmp_path / "out")["height"] == 24


# --- killed ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def commands():
    with Commands(**in_checkout()) as commands:
        yield commands


def assert_whole_or_none(out, whole):
    if out.exists():
        assert without_record(out) == whole
        tfrecord.load_records(out)  # checks every frame


@FEW_AND_MANY
def test_killed_at_any_moment_it_leaves_whole_records_or_none(
    commands, fake_davis, tmp_path, count, anywhere
):
    lengthen(fake_davis)
    flags = [f"--davis={fake_davis}", "--split=long", "--shards=16", "--overwrite"]
    once = None if anywhere else lambda: len(list(tmp_path.glob(".*/*")))
    seconds = commands.run("davis_to_tfrecord", [*flags, f"--out={tmp_path / 'undisturbed'}"], once)
    whole = without_record(tmp_path / "undisturbed")
    assert len(whole) == 16 + 1

    out, kills = tmp_path / "killed", 0
    for number, moment in enumerate(moments(seconds, count)):
        if number % 2:  # over whole records; else over what the one before has left
            shutil.copytree(tmp_path / "undisturbed", out, dirs_exist_ok=True)
        kills += commands.kill("davis_to_tfrecord", [*flags, f"--out={out}"], moment, once=once)
        assert_whole_or_none(out, whole)
    assert kills

    commands.run("davis_to_tfrecord", [*flags, f"--out={out}"])
    assert without_record(out) == whole
    assert {path.name for path in tmp_path.iterdir()} == {"DAVIS", "killed", "undisturbed"}


def test_killed_at_each_step_it_leaves_whole_records_or_none(commands, fake_davis, tmp_path):
    """A step is a record written, or a file renamed or removed; it runs over whole records."""
    flags = [f"--davis={fake_davis}", "--split=val", "--shards=2", "--overwrite"]
    commands.run("davis_to_tfrecord", [*flags, f"--out={tmp_path / 'undisturbed'}"])
    whole = without_record(tmp_path / "undisturbed")

    out = tmp_path / "killed"
    for step in range(100):
        shutil.copytree(tmp_path / "undisturbed", out, dirs_exist_ok=True)
        _, wait = commands.start("davis_to_tfrecord", [*flags, f"--out={out}"], kill_at=step)
        status, text = wait()
        assert without_record(out) == whole
        if status == 0:  # there are no more steps
            break
        assert status == -signal.SIGKILL, text
    assert step >= 4 + 3 + 3  # records, files renamed, files of the old ones removed


def lengthen(root, frames=400):
    """Adds a split `long` of one long sequence to a DAVIS tree."""
    for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
        folder = root / kind / "480p"
        (folder / "long").mkdir()
        for number in range(frames):
            source = folder / ("bear", "goat")[number % 2] / f"{number // 2 % 4:05d}.{suffix}"
            shutil.copy(source, folder / "long" / f"{number:05d}.{suffix}")
    (root / "ImageSets" / "2017").mkdir()
    (root / "ImageSets" / "2017" / "long.txt").write_text("long\n")
