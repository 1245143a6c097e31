"""Full disks, folders that cannot be written to, damaged files, signals: what each command does."""

import os
import pathlib
import shutil
import signal
import tempfile
import time

import cv2
import numpy as np
import pytest

from osvos_tf.data import davis
from osvos_tf.data.tfrecord_writer import _example, write_records
from osvos_tf.network import model
from osvos_tf.network.files import load_model, save_model
from support.toy_model import wait_until
from support.world import draw_bsds, paint

WIDTH = 1 / 32
NOBODY = 65534
TRAINING = [
    "--weights=random", "--precision=float32", f"--width_multiplier={WIDTH}",
    "--height=32",
]  # fmt: skip
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs():
    """A folder that anyone may read, with what the commands read."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        root.chmod(0o755)
        davis_root = paint(root / "DAVIS")
        draw_bsds(root / "BSDS")
        sequences = davis.read_split(davis_root, "train")
        write_records(sequences, root / "records", "train", shards=2)
        for build in (model.build_foreground, model.build_contour):
            network = build(width_multiplier=WIDTH, start="scratch", seed=1)
            save_model(network, root / f"{network.name}.keras")
        for sequence in sequences:
            for frame in sequence.frames:
                path = root / "results" / sequence.name / f"{frame.name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(frame.mask, path)
        from support.toy_model import save

        save(root / "saved_models" / "dog" / "1")
        yield root


def flags_of(command, inputs, out):
    """Returns a command's flags, cheap ones."""
    bear = inputs / "DAVIS/JPEGImages/480p/bear"
    mask = inputs / "DAVIS/Annotations/480p/bear/00000.png"
    davis_flags = [f"--davis={inputs / 'DAVIS'}", "--split=train", f"--out={out}"]
    return {
        "davis_to_tfrecord": davis_flags,
        "train_parent": [
            f"--records={inputs / 'records'}", f"--workdir={out}", "--recipe=imagenet", *TRAINING,
            "--updates=2",
        ],
        "train_contour": [
            f"--bsds={inputs / 'BSDS'}", f"--workdir={out}", "--recipe=scratch", *TRAINING,
            "--updates=2",
        ],
        "segment": [
            f"--frames={bear}", f"--mask={mask}", f"--parent={inputs / 'foreground.keras'}",
            f"--out={out}", "--updates=0", "--precision=float32",
        ],
        "evaluate": [*davis_flags, f"--results=m:{inputs / 'results'}"],
        "export_saved_model": [f"--model={inputs / 'foreground.keras'}", f"--out={out}"],
        "query": [
            f"--server={inputs / 'saved_models'}", "--model=dog", f"--frames={bear}",
            f"--out={out}", "--snap=none",
        ],
    }[command]  # fmt: skip


WRITERS = {  # command -> most bytes of a file for which nothing of it can be completed
    "davis_to_tfrecord": 1000,
    "train_parent": 2000,
    "train_contour": 500,
    "segment": 2000,
    "evaluate": 60,
    "export_saved_model": 50_000,  # AutoGraph needs small files elsewhere
    "query": 60,
}
BESIDE = {  # commands whose results appear when they are whole -> a flag that makes other ones
    "davis_to_tfrecord": "--height=24",
    "segment": "--threshold=0.5",
    "evaluate": "--allow_missing",
    "query": "--snap=bilateral",
}
SMALL = {"flags.json"}  # files that fit all the same


def assert_explained(command, status, text, *words):
    """Status 2, one message, no traceback."""
    assert status == 2, text
    assert "Traceback" not in text
    message = text[text.index(f"{command}: ") :]
    for word in words:
        assert word in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("command", WRITERS)
def test_a_full_disk(command, commands, inputs, tmp_path):
    out = tmp_path / "out"
    status, text = commands.finish(
        command, flags_of(command, inputs, out), file_bytes=WRITERS[command]
    )
    assert_explained(command, status, text, str(out))
    if command in BESIDE:
        assert not list(tmp_path.iterdir())
    left = {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
    finished = {
        path
        for path in left
        if path.name not in SMALL and not any(part.startswith(".") for part in path.parts)
        and path.parts[0] not in ("checkpoints", "summaries")
    }  # fmt: skip
    assert not finished
    assert not (out / "checkpoints" / "checkpoint").exists()


@pytest.mark.parametrize("command", BESIDE)
def test_a_full_disk_costs_no_earlier_results(command, commands, inputs, tmp_path):
    flags = flags_of(command, inputs, tmp_path / "out")
    commands.run(command, flags)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    flags += [BESIDE[command], "--overwrite"]
    status, text = commands.finish(command, flags, file_bytes=WRITERS[command])
    assert_explained(command, status, text, str(tmp_path / "out"))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("command", WRITERS)
def test_a_folder_that_takes_no_files(command, commands, inputs):
    with tempfile.TemporaryDirectory() as folder:
        locked = pathlib.Path(folder) / "locked"
        locked.mkdir()
        pathlib.Path(folder).chmod(0o755)
        locked.chmod(0o555)
        fate = {} if os.getuid() else {"uid": NOBODY}  # nothing is locked for root
        for out in (locked, locked / "inside"):
            status, text = commands.finish(command, flags_of(command, inputs, out), **fate)
            assert_explained(command, status, text, str(locked.parent))
        assert not list(locked.iterdir())
        locked.chmod(0o755)


# --- records --------------------------------------------------------------------------------------


def test_a_flipped_bit_in_a_record(commands, inputs, tmp_path):
    records = shutil.copytree(inputs / "records", tmp_path / "records")
    shard = records / "train-00001-of-00002.tfrecord"
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1  # in the last record: goat's fourth frame
    shard.write_bytes(content)
    flags = flags_of("train_parent", inputs, tmp_path / "run")[1:]
    flags = [f"--records={records}", *flags]
    status, text = commands.finish("train_parent", flags)
    assert_explained(
        "train_parent", status, text, "record 3 of train-00001-of-00002.tfrecord", "'goat'",
        "frame 3", "checksum is wrong", "--skip_corrupt",
    )  # fmt: skip
    assert not (tmp_path / "run" / "parent.keras").exists()
    status, text = commands.finish("train_parent", [*flags, "--skip_corrupt"])
    assert status == 0, text
    assert "Left out 1 damaged frames: record 3 of train-00001-of-00002.tfrecord" in text

    shard.write_bytes(content[: len(content) // 3])
    status, text = commands.finish("train_parent", flags)
    assert_explained("train_parent", status, text, shard.name, "Convert again")
    (tmp_path / "other").mkdir()
    flags[1] = f"--workdir={tmp_path / 'other'}"
    status, text = commands.finish("train_parent", [*flags, "--skip_corrupt"])
    assert status == 0, text
    assert "Left out 3 damaged frames: record 1" in text and "and the 2 behind it" in text


def test_a_picture_that_cannot_be_decoded_in_a_record(commands, inputs, tmp_path):
    """A record whose checksums are right, made by another program."""
    from support.records import records_of

    frame = np.random.default_rng(0).integers(0, 255, (48, 80, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", frame)[1].tobytes()
    mask = cv2.imencode(".png", np.eye(48, 80, dtype=np.uint8) * 255)[1].tobytes()
    example = _example("bear", "0", (48, 80), jpeg[: len(jpeg) // 2], mask)
    (tmp_path / "records").mkdir()
    records = records_of(tmp_path / "records", example.SerializeToString())
    flags = flags_of("train_parent", inputs, tmp_path / "run")[1:]
    status, text = commands.finish("train_parent", [f"--records={records}", *flags])
    assert_explained("train_parent", status, text, str(records), "cannot be decoded")


# --- training that ends early ---------------------------------------------------------------------


def checkpoint_number(workdir):
    state = workdir / "checkpoints" / "checkpoint"
    if not state.is_file():
        return 0
    return int(state.read_text().splitlines()[0].rpartition("-")[2].rstrip('"'))


@pytest.mark.parametrize("command", ["train_parent", "train_contour"])
def test_signals_end_training_with_a_checkpoint(command, commands, inputs, tmp_path):
    flags = flags_of(command, inputs, tmp_path / "run")[:-1]
    flags += ["--updates=1000000", "--checkpoint_seconds=100000"]  # no checkpoint but at the end
    before = 0
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        shutil.rmtree(tmp_path / "run" / "summaries", ignore_errors=True)
        child, wait = commands.start(command, flags)
        # A summary comes every 25 updates, counted over all runs.
        wait_until(lambda: _summary_bytes(tmp_path / "run") > 1000, seconds=300)
        os.kill(child, number)
        found, text = wait()
        assert found == status, text
        assert "Traceback" not in text and "Stopping as soon as this update is saved." in text
        saved = checkpoint_number(tmp_path / "run")
        assert saved >= (before // 25 + 1) * 25
        before = saved
    assert not list((tmp_path / "run").glob("*.keras"))


def _summary_bytes(workdir):
    return sum(path.stat().st_size for path in workdir.glob("summaries/*"))


@pytest.mark.parametrize("over", ["nothing", "results"])
def test_signals_end_segment_with_nothing_half_written(commands, inputs, tmp_path, over):
    """In the middle of training; what was there before stands as it was."""
    out = tmp_path / "out"
    flags = flags_of("segment", inputs, out)
    if over == "results":
        commands.run("segment", flags)
        flags.append("--overwrite")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    flags = [*flags, "--updates=1000000", "--nountil_learned"]
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        child, wait = commands.start("segment", flags)
        wait_until(lambda: (tmp_path / ".out.unfinished" / "work.json").exists(), seconds=300)
        time.sleep(4)  # past the imports and the graph of the first update, into training
        os.kill(child, number)
        found, text = wait()
        assert found == status, text
        assert "Traceback" not in text
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
        assert {path.name for path in tmp_path.iterdir()} == ({"out"} if before else set())


def test_a_truncated_checkpoint(commands, inputs, tmp_path):
    workdir = tmp_path / "run"
    flags = [*flags_of("train_parent", inputs, workdir)[:-1], "--updates=6"]
    flags.append("--checkpoint_seconds=0")
    commands.run("train_parent", flags)
    expected = load_model(workdir / "parent.keras").get_weights()
    data = workdir / "checkpoints" / "ckpt-6.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    status, text = commands.finish("train_parent", flags)
    assert status == 0, text
    assert "Checkpoint ckpt-6 is damaged" in text and "at update 5" in text
    found = load_model(workdir / "parent.keras").get_weights()
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)

    for path in (workdir / "checkpoints").glob("*.index"):
        path.write_bytes(b"")
    status, text = commands.finish("train_parent", flags)
    assert_explained("train_parent", status, text, "No checkpoint in", "ckpt-6, ckpt-5")


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"seed": 0}', "[" * 100_000])
def test_settings_of_a_run_that_are_damaged(commands, inputs, tmp_path, text):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "ckpt-1.index").touch()
    (tmp_path / "flags.json").write_text(text)
    status, said = commands.finish("train_parent", flags_of("train_parent", inputs, tmp_path))
    assert_explained("train_parent", status, said, "flags.json is damaged")
