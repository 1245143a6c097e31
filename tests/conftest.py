"""What all tests share: an invented DAVIS tree, its records, and the way to the real data."""

import collections
import os

from osvos_tf.data.tfrecord_writer import write_records

# Before the first import of TensorFlow: its C++ side logs at start.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Test files run side by side, one a core: more threads than that wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")

import pathlib
import signal

import pytest

from support.commands import Commands
from support.world import REPOSITORY, paint


def pytest_configure():
    """A shell starts what runs in the background with Ctrl-C ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Files with many slow tests come first: begun last, one would run alone at the end."""
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture
def fake_davis(tmp_path):
    """Root of a DAVIS-2016 tree: a square moves through 4 frames of 48x80 in each sequence."""
    return paint(tmp_path / "DAVIS")


@pytest.fixture(scope="session")
def fake_records(tmp_path_factory):
    """Records of the invented training split, 8 frames in 3 shards. Only to be read."""
    from osvos_tf.data import davis

    folder = tmp_path_factory.mktemp("shared")
    sequences = davis.read_split(paint(folder / "DAVIS"), "train")
    write_records(sequences, folder / "records", "train", shards=3)
    return folder / "records"


@pytest.fixture(scope="session")
def parent(tmp_path_factory):
    """A tiny network with random weights that looks at frames as they come. Only to be read."""
    from osvos_tf.network import files, model

    path = tmp_path_factory.mktemp("parent") / "parent.keras"
    network = model.build_foreground(width_multiplier=1 / 16, start="scratch", seed=1)
    files.save_model(network, path)
    return path


@pytest.fixture
def quick(monkeypatch):
    """Specialists that learn in no time; a list that trainings add to."""
    from support import quick_specialist

    return quick_specialist.install(monkeypatch)


@pytest.fixture(scope="session")
def commands():
    """Starts commands in real processes, see `commands.Commands`."""
    with Commands(cwd=REPOSITORY) as commands:
        yield commands


@pytest.fixture(scope="session")
def real_data():
    """The folder that holds the real `DAVIS`; without it the test is skipped."""
    folder = pathlib.Path(os.environ.get("OSVOS_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "DAVIS").is_dir():
        pytest.skip(f"no folder DAVIS in {folder}; OSVOS_DATA can name another one")
    return folder
