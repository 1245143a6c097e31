"""The command: what it leaves, what it says, and what is left when it is killed."""

import contextlib
import copy
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tensorflow as tf

from osvos_tf import tfrecord
from osvos_tf.errors import InputError
from pipelines import cli, davis_to_tfrecord

REPOSITORY = pathlib.Path(__file__).parents[1]

KILLS = 8
# Reads lines of JSON: a conversion's flags, and the step at which it is to kill itself or null. It
# runs each in a fork, and prints the fork's process id and, at its end, its wait status. So
# TensorFlow is imported once, which takes most of a conversion's time.
CONVERSIONS = """
import itertools, json, os, signal, sys
from pipelines import cli, davis_to_tfrecord
tf = cli.import_tensorflow()

def kill_at(last):
    steps = itertools.count()
    write = tf.io.TFRecordWriter.write

    def hook(event, _):
        if event in ("os.remove", "os.rename", "write record") and next(steps) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def audited_write(writer, record):
        write(writer, record)
        sys.audit("write record")

    sys.addaudithook(hook)
    tf.io.TFRecordWriter.write = audited_write

for line in sys.stdin:
    flags, last = json.loads(line)
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr
        if last is not None:
            kill_at(last)
        davis_to_tfrecord.main(cli.parse(davis_to_tfrecord.FLAGS, flags))
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture
def convert(monkeypatch):
    """A function of flags that runs the command in this process, where TensorFlow is at work."""
    monkeypatch.setattr(cli, "import_tensorflow", lambda: tf)

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
    assert sorted(content(out)) == ["manifest.json", *shards]
    manifest = tfrecord.read_manifest(out)
    assert manifest["frames"] == 8 and manifest["height"] == 24
    assert done.stdout == f"Wrote 8 frames of 2 sequences in 8 shards, 0.0 MB, to {out}\n"
    assert len(done.stderr.splitlines()) == 1 and "8 of 8 frames" in done.stderr


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
    ]


def test_more_shards_than_frames(convert, fake_davis, tmp_path):
    with pytest.raises(InputError, match=r"--shards must be in 1\.\.4"):
        convert(f"--davis={fake_davis}", "--split=val", f"--out={tmp_path / 'out'}", "--shards=5")


# --- killed ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start():
    """A function of flags that starts a conversion and returns its process id and its waiter."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork and SIGKILL")
    process = subprocess.Popen(
        [sys.executable, "-c", CONVERSIONS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **in_checkout(),
    )

    def answer():
        return int(process.stdout.readline() or pytest.fail("the conversions' parent has ended"))

    def start(*flags, kill_at=None):
        process.stdin.write(json.dumps([flags, kill_at]) + "\n")
        process.stdin.flush()
        return answer(), answer

    with process:
        yield start
        process.stdin.close()


def assert_whole_or_none(out, whole):
    found = content(out) if out.exists() else {}
    visible = {name: data for name, data in found.items() if not name.startswith(".")}
    assert visible.items() <= whole.items()
    if tfrecord.MANIFEST in found:
        assert visible == whole
    else:
        with pytest.raises(InputError, match=r"No manifest\.json"):
            tfrecord.read_manifest(out)


def test_killed_at_any_moment_it_leaves_whole_records_or_none(start, fake_davis, tmp_path):
    lengthen(fake_davis)
    flags = [f"--davis={fake_davis}", "--split=long", "--shards=16"]
    _, wait = start(*flags, f"--out={tmp_path / 'undisturbed'}")
    began = time.monotonic()
    assert wait() == 0
    seconds = time.monotonic() - began
    whole = content(tmp_path / "undisturbed")
    assert len(whole) == 16 + 1

    out, moments, statuses = tmp_path / "killed", random.Random(0), []
    for number in range(KILLS):
        if number % 2:  # over whole records; else over what the one before has left
            shutil.copytree(tmp_path / "undisturbed", out, dirs_exist_ok=True)
        child, wait = start(*flags, f"--out={out}")
        time.sleep(seconds * (number + moments.random()) / KILLS)
        with contextlib.suppress(ProcessLookupError):  # it was done before
            os.kill(child, signal.SIGKILL)
        statuses.append(wait())
        assert_whole_or_none(out, whole)
    assert any(os.WIFSIGNALED(status) for status in statuses)

    _, wait = start(*flags, f"--out={out}")
    assert wait() == 0
    assert content(out) == whole


def test_killed_at_each_step_it_leaves_whole_records_or_none(start, fake_davis, tmp_path):
    """A step is a record written, or a file renamed or removed; it runs over whole records."""
    flags = [f"--davis={fake_davis}", "--split=val", "--shards=2"]
    _, wait = start(*flags, f"--out={tmp_path / 'undisturbed'}")
    assert wait() == 0
    whole = content(tmp_path / "undisturbed")

    out = tmp_path / "killed"
    for step in range(100):
        shutil.copytree(tmp_path / "undisturbed", out, dirs_exist_ok=True)
        _, wait = start(*flags, f"--out={out}", kill_at=step)
        status = wait()
        assert_whole_or_none(out, whole)
        if status == 0:  # there are no more steps
            break
        assert os.WIFSIGNALED(status)
    assert step >= 4 + 3 + 3  # records, files removed first, files renamed at last
    leftovers = set(content(out)) - set(whole)
    assert not [name for name in leftovers if not name.endswith(".probe")]


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
