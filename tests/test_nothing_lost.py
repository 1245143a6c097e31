"""What every command that leaves results has in common: nothing of the user's is ever lost.

How results take their place is tested in `test_results.py`, killed commands in `test_killed.py`,
`test_evaluate.py` and `test_davis_to_tfrecord.py`, what only one command has with that command.
"""

import importlib
import pathlib
import re
import shutil

import pytest
import tensorflow as tf

from osvos_tf import places, results, runtime
from osvos_tf.commands import cli
from osvos_tf.data import davis
from osvos_tf.data.tfrecord_writer import write_records
from osvos_tf.errors import InputError
from osvos_tf.network import model
from osvos_tf.network.files import save_model
from support import foreign, toy_model
from support.world import draw_bsds, paint

WIDTH = 1 / 32
TRAINING = {
    "recipe": "scratch",
    "weights": "random",
    "precision": "float32",
    "width_multiplier": WIDTH,
    "height": 32,
    "updates": 1,
}
# Command -> what changes its results.
CHANGES = {
    "segment": {"threshold": 0.9},
    "query": {"snap": "bilateral"},
    "evaluate": {"sequences": "goat"},
    "davis_to_tfrecord": {"height": 24},
}
# Command -> its flag that names where results go, and the place's lock.
PLACES = {
    **{command: ("out", ".place.lock") for command in (*CHANGES, "demo", "import_weights")},
    **{command: ("workdir", "place/.lock") for command in ("train_parent", "train_contour")},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with what the commands read. Only to be read."""
    root = tmp_path_factory.mktemp("inputs")
    paint(root / "DAVIS")
    draw_bsds(root / "BSDS")
    network = model.build_foreground(width_multiplier=WIDTH, start="scratch", seed=1)
    save_model(network, root / "parent.keras")
    foreign.write_torch_legacy(root / "parent.pth", foreign.torch_state(foreign.random_arrays()))
    toy_model.save(root / "saved_models" / "dog" / "1")
    sequences = davis.read_split(root / "DAVIS", "train")
    write_records(sequences, root / "records", "train", shards=2)
    for sequence in sequences:
        (root / "results" / sequence.name).mkdir(parents=True)
        for frame in sequence.frames:
            shutil.copy(frame.mask, root / "results" / sequence.name)
    return root


@pytest.fixture
def run(inputs, tmp_path, monkeypatch):
    """A function of a command and flags that runs it here; what it leaves is `tmp_path / place`."""
    monkeypatch.setattr(runtime, "import_tensorflow", lambda: tf)

    def run(command, **changes):
        place = tmp_path / "place" / ("model.keras" if command == "import_weights" else "")
        changes = {PLACES[command][0]: place, **changes}
        flags = {**flags_of(command, inputs), **changes}
        pipeline = importlib.import_module(f"osvos_tf.commands.{command}")
        try:
            pipeline.main(
                cli.parse(pipeline.FLAGS, [f"--{name}={value}" for name, value in flags.items()])
            )
        except InputError as error:
            named = set(re.findall(r"--(\w+)", str(error)))
            assert named <= set(pipeline.FLAGS), "a message names a flag of another command"
            raise

    return run


def flags_of(command, inputs):
    """Returns cheap flags of a command, all but where results go."""
    bear = inputs / "DAVIS/JPEGImages/480p/bear"
    split = {"davis": inputs / "DAVIS", "split": "train"}
    return {
        "segment": {
            "frames": bear,
            "mask": inputs / "DAVIS/Annotations/480p/bear/00000.png",
            "parent": inputs / "parent.keras",
            "updates": 0,
            "precision": "float32",
        },
        "query": {
            "server": inputs / "saved_models", "model": "dog", "frames": bear, "snap": "none",
        },
        "evaluate": {**split, "results": f"m:{inputs / 'results'}", "sequences": "bear"},
        "davis_to_tfrecord": split,
        "demo": {},
        "import_weights": {"source": inputs / "parent.pth"},
        "train_parent": {**TRAINING, "records": inputs / "records"},
        "train_contour": {**TRAINING, "bsds": inputs / "BSDS"},
    }[command]  # fmt: skip


def content(folder):
    """Everything in a folder by its path, hidden files too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("command", CHANGES)
def test_results_of_other_flags_are_replaced_when_asked_for_only(run, tmp_path, command):
    out = tmp_path / "place"
    run(command)
    (out / "notes.txt").write_text("mine")
    (out / "masks").mkdir(exist_ok=True)
    (out / "masks" / "notes.txt").write_text("mine, too")
    before = content(tmp_path)
    (name,) = CHANGES[command]
    with pytest.raises(InputError, match=rf"place' holds .* with another .*{name}.*`overwrite`"):
        run(command, **CHANGES[command])
    assert content(tmp_path) == before
    run(command, **CHANGES[command], overwrite=True)
    after = content(tmp_path)
    assert after["place/run.json"] != before["place/run.json"]
    for notes in ("place/notes.txt", "place/masks/notes.txt"):
        assert after[notes] == before[notes]
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


@pytest.mark.parametrize("command", CHANGES)
def test_the_same_command_again_is_fine(run, tmp_path, command):
    run(command)
    before = content(tmp_path)
    run(command)
    after = content(tmp_path)
    for found in (before, after):
        del found["place/run.json"]  # seconds
    assert after == before


@pytest.mark.parametrize("command", CHANGES)
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("record", [None, "", "[]", '{"step": 3}'])
def test_what_has_no_record_of_ours_is_refused_by_name(run, tmp_path, command, overwrite, record):
    """The run.json of another program makes a folder none of ours."""
    out = tmp_path / "place"
    (out / "masks").mkdir(parents=True)
    (out / "masks" / "00000.png").write_text("my annotation")
    if record is not None:
        (out / "run.json").write_text(record)
    before = content(tmp_path)
    with pytest.raises(InputError, match=r"place' holds what this command did not make \(masks"):
        run(command, overwrite=overwrite)
    assert content(tmp_path) == before


@pytest.mark.parametrize("command", CHANGES)
def test_work_that_fails_leaves_what_was_there(run, tmp_path, monkeypatch, command):
    """Here as it is published; before that, nothing has touched it."""
    run(command)
    before = content(tmp_path)

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(results, "_take_place", fail)
        run(command, **CHANGES[command], overwrite=True)
    after = content(tmp_path)
    assert {path: after.get(path) for path in before} == before
    run(command)
    run(command, **CHANGES[command], overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


@pytest.mark.parametrize("command", PLACES)
def test_a_second_run_is_told_at_once(run, tmp_path, command):
    lock = tmp_path / PLACES[command][1]
    lock.parent.mkdir(exist_ok=True)
    if command == "import_weights":
        (tmp_path / "place").mkdir()
        lock = tmp_path / "place" / ".model.keras.lock"
    with (
        places.lock(lock, "the place"),
        pytest.raises(InputError, match=r"Another run is writing to '.*place.*' right now"),
    ):
        run(command)
    assert content(tmp_path) == {}


@pytest.mark.parametrize("command", ["segment", "query", "evaluate", "davis_to_tfrecord"])
def test_the_home_folder_and_links_are_seen_through(run, tmp_path, monkeypatch, command, inputs):
    """An input is known again by whatever name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(inputs)
    before = content(inputs)
    place = "JPEGImages/480p/bear" if command in ("segment", "query") else ""
    for out in (f"~/link/DAVIS/{place}", f"{inputs}/results/../DAVIS/{place}"):
        with pytest.raises(InputError, match="whose content would be replaced"):
            run(command, out=out, overwrite=True)
    assert content(inputs) == before and not pathlib.Path("~").exists()
