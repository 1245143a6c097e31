"""The import command: what it leaves, what it refuses, and what can be done with the result."""

import json
import subprocess
import sys

import numpy as np
import pytest

import osvos_tf
from osvos_tf import places
from osvos_tf.commands import cli, import_weights, segment
from osvos_tf.errors import InputError
from support import foreign
from support.world import REPOSITORY


@pytest.fixture(scope="module")
def arrays():
    return foreign.random_arrays()


@pytest.fixture(scope="module")
def source(arrays, tmp_path_factory):
    """A parent as the PyTorch version leaves it."""
    path = tmp_path_factory.mktemp("released") / "parent_epoch-239.pth"
    foreign.write_torch_legacy(path, foreign.torch_state(arrays))
    return path


def run(**flags):
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    import_weights.main(cli.parse(import_weights.FLAGS, arguments))


def test_leaves_a_model_and_says_what_it_is(source, arrays, tmp_path, capsys):
    out = tmp_path / "models" / "parent.keras"
    run(source=source, out=out)
    assert [path.name for path in out.parent.iterdir()] == ["parent.keras"]
    assert capsys.readouterr().out == f"Wrote {out}: a foreground network, crop 'center'.\n"
    network = osvos_tf.load_model(out)
    assert network.name == "foreground" and network.get_layer("side5").crop == "center"
    assert network.get_layer("preprocess").scale == 1.0
    kernel, bias = network.get_layer("fused").get_weights()
    np.testing.assert_array_equal(kernel, arrays["fused"][0].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(bias, arrays["fused"][1])
    with pytest.raises(InputError, match="model already: there is nothing"):
        run(source=out, out=tmp_path / "other.keras")


def test_another_file_is_replaced_when_asked_for_only(source, tmp_path, capsys):
    out = tmp_path / "parent.keras"
    run(source=source, out=out)
    network, made = out.read_bytes(), out.stat().st_ino
    capsys.readouterr()
    run(source=source, out=out)
    assert capsys.readouterr().out.startswith(f"{out} holds this network already: a foreground")
    assert out.stat().st_ino == made
    out.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"parent\.keras exists and is not this network.*--over"):
        run(source=source, out=out)
    assert out.read_bytes() == b"mine"
    run(source=source, out=out, overwrite=True)
    assert out.read_bytes() == network
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("name", ["parent.keras", "link.keras"])
def test_the_source_is_never_written_over(source, tmp_path, name):
    released = tmp_path / "parent.keras"  # as somebody called it
    released.write_bytes(before := source.read_bytes())
    (tmp_path / "link.keras").symlink_to(released)
    with pytest.raises(InputError, match="is --source itself"):
        run(source=released, out=tmp_path / name, overwrite=True)
    assert released.read_bytes() == before and (tmp_path / "link.keras").is_symlink()


def test_two_runs_into_one_file(source, tmp_path):
    out = tmp_path / "parent.keras"
    with (
        places.lock(tmp_path / ".parent.keras.lock", out),
        pytest.raises(InputError, match=r"Another run is writing to '.*parent\.keras' right now"),
    ):
        run(source=source, out=out)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"source": "absent.pth"}, "No file absent.pth"),
        ({"source": __file__}, "not a .keras file, nor any other"),
        ({"format": "caffe"}, "of the format caffe, but .* is a PyTorch file"),
        ({"out": "{tmp_path}/parent.h5"}, "Wanted a .keras file"),
        ({"out": "{tmp_path}"}, "Wanted a .keras file"),
    ],
)
def test_refused_with_a_message_and_nothing_written(flags, message, source, tmp_path):
    flags = {name: value.format(tmp_path=tmp_path) for name, value in flags.items()}
    with pytest.raises(InputError, match=message):
        run(**{"source": source, "out": tmp_path / "parent.keras", **flags})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_exit_status_of_a_users_mistake(source, tmp_path):
    cut = tmp_path / "cut.pth"
    cut.write_bytes(source.read_bytes()[:-1000])
    command = [sys.executable, "-m", "pipelines.import_weights", f"--out={tmp_path}/parent.keras"]
    for flags, message in (
        ([f"--source={cut}"], "truncated: storage 51 should have 4096 bytes, 3096 are left"),
        ([f"--source={source}", "--format=torch"], "format"),
        ([], "--source"),
    ):
        done = subprocess.run(
            [*command, *flags], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("import_weights: ") and "Traceback" not in done.stderr
        assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["cut.pth"]


@pytest.mark.slow
def test_segment_learns_from_an_imported_parent(source, arrays, fake_davis, tmp_path):
    """As the paper does it, at full width and the frames' own size."""
    parent, out = tmp_path / "parent.keras", tmp_path / "out"
    run(source=source, out=parent)
    flags = {
        "frames": fake_davis / "JPEGImages/480p/bear",
        "mask": fake_davis / "Annotations/480p/bear/00000.png",
        "parent": parent,
        "out": out,
        "recipe": "paper",
        "updates": 2,
    }
    segment.main(cli.parse(segment.FLAGS, [f"--{name}={value}" for name, value in flags.items()]))
    assert len(list((out / "masks").iterdir())) == 4
    assert all(
        np.isfinite(loss) for _, loss in json.loads((out / "run.json").read_text())["losses"]
    )
    specialist = osvos_tf.load_model(out / "specialist.keras")
    assert specialist.get_layer("fused").crop == "center"
    kernel = specialist.get_layer("block5_conv3").get_weights()[0]
    before = arrays["block5_conv3"][0].transpose(2, 3, 1, 0)
    assert 0 < np.abs(kernel - before).max() < 0.1
