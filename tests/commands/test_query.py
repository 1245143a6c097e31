"""Segmentation through a server as a user runs it, against the embedded server."""

import json

import numpy as np
import pytest
from PIL import Image

from osvos_tf.commands import cli, query, segment
from osvos_tf.data import davis
from osvos_tf.errors import InputError
from osvos_tf.media import masks
from osvos_tf.media.frames import open_frames
from osvos_tf.media.masks import read_mask, write_mask
from osvos_tf.media.video_writer import write_video
from osvos_tf.network import model, saved_model
from osvos_tf.network.files import load_model, save_model
from osvos_tf.serving import client_base
from osvos_tf.serving import server as model_server
from support.world import paint

HEIGHT, WIDTH = 48, 80  # of the invented tree
SERVERS = ("grpc", "rest", "folder")


@pytest.fixture(scope="session")
def specialist(tmp_path_factory):
    """A tiny network that looks at frames 32 pixels high, as a .keras file."""
    path = tmp_path_factory.mktemp("specialist") / "specialist.keras"
    network = model.build_foreground(width_multiplier=1 / 16, start="scratch", seed=1)
    network.get_layer("preprocess").working_height = 32
    save_model(network, path)
    return path


@pytest.fixture(scope="session")
def saved_models(specialist, tmp_path_factory):
    """The folder with its export, called dog."""
    folder = tmp_path_factory.mktemp("saved_models")
    saved_model.export_saved_model(load_model(specialist), folder / "dog", threshold=0.5)
    return folder


@pytest.fixture(scope="session")
def servers(saved_models):
    """The values of --server for each kind, all with the model dog."""
    with model_server.ModelServer({"dog": saved_models / "dog"}) as server:
        yield {
            "grpc": f"127.0.0.1:{server.grpc_port}",
            "rest": f"http://127.0.0.1:{server.rest_port}",
            "folder": str(saved_models),
        }


@pytest.fixture
def bear(fake_davis):
    """The first sequence of the invented tree."""
    return davis.read_split(fake_davis, "train", sequences=["bear"])[0]


@pytest.fixture
def arguments(bear, servers, tmp_path):
    """Flags by name, for tests to change."""
    return {
        "server": servers["rest"],
        "model": "dog",
        "frames": bear.frames[0].image.parent,
        "out": tmp_path / "out",
    }


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(client_base, "_FIRST_WAIT", 0.01)


def run(arguments, command=query):
    flags = [f"--{name}={value}" for name, value in arguments.items() if value is not None]
    command.main(cli.parse(command.FLAGS, flags))


def read_files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module", params=["none", "bilateral"])
def masks_of_segment(request, specialist, tmp_path_factory):
    """A way to snap, and the masks that `segment` makes that way, by file name."""
    folder = tmp_path_factory.mktemp("here")
    (bear,) = davis.read_split(paint(folder / "DAVIS"), "train", sequences=["bear"])
    here = {
        "frames": bear.frames[0].image.parent,
        "mask": bear.frames[0].mask,
        "parent": specialist,
        "updates": 0,
        "threshold": 0.5,
        "precision": "float32",
        "snap": request.param,
        "follow": False,
        "smooth": False,
        "out": folder / "out",
    }
    run(here, segment)
    return request.param, read_files(folder / "out" / "masks")


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_same_masks_as_segment(arguments, servers, masks_of_segment, kind, batch_size):
    snap, expected = masks_of_segment
    run(
        {**arguments, "server": servers[kind], "batch_size": batch_size, "snap": snap,
         "threshold": 0.5}
    )  # fmt: skip
    found = read_files(arguments["out"] / "masks")
    given = "00000.png"  # comes back from `segment`; a server does not know it
    assert expected.keys() == found.keys() and expected[given] != found[given]
    distinct = len({mask for name, mask in expected.items() if name != given})
    assert len(expected) == 4 and (distinct == 3 if snap == "none" else distinct > 1)
    assert {**found, given: None} == {**expected, given: None}


def test_what_it_leaves(arguments, capsys):
    run(arguments)
    out = arguments["out"]
    assert {path.name for path in out.iterdir()} == {"masks", "run.json"}
    assert read_mask(out / "masks" / "00000.png").shape == (HEIGHT, WIDTH)
    record = json.loads((out / "run.json").read_text())
    assert record["frames"] == 4 and record["size"] == [HEIGHT, WIDTH]
    assert record["flags"]["server"] == arguments["server"]
    assert "4 masks in" in capsys.readouterr().out


def test_video_in(arguments, tmp_path):
    with write_video(tmp_path / "clip.mp4", (HEIGHT, WIDTH), 12) as writer:
        for _, frame in open_frames(arguments["frames"]):
            writer.write(frame)
    run({**arguments, "frames": tmp_path / "clip.mp4"})
    names = [path.stem for path in sorted((arguments["out"] / "masks").iterdir())]
    assert names == ["00000", "00001", "00002", "00003"]


def test_masks_of_an_earlier_run_do_not_linger(arguments, bear):
    run(arguments)
    (arguments["frames"] / "00003.jpg").unlink()
    run(arguments)
    masks = arguments["out"] / "masks"
    assert [path.stem for path in sorted(masks.iterdir())] == [f"0000{i}" for i in range(3)]


def test_the_same_command_again(arguments, saved_models, capsys):
    """The server is asked only where masks are missing, or where that is said."""
    with model_server.ModelServer({"dog": saved_models / "dog"}) as server:
        arguments["server"] = f"http://127.0.0.1:{server.rest_port}"
        run(arguments)
    out = arguments["out"]
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    corrected = out / "masks" / "00002.png"
    write_mask(corrected, 1 - read_mask(corrected))  # by hand, in place
    before[corrected] = corrected.read_bytes()
    capsys.readouterr()
    run({**arguments, "deadline": 1})  # that server is gone
    assert "holds these masks already" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before
    for changes in ({"overwrite": True}, {"snap": "none", "overwrite": True}):
        with pytest.raises(InputError, match="Is a server running there"):
            run({**arguments, **changes, "deadline": 1})
    corrected.write_bytes(corrected.read_bytes()[:50])  # damaged: asked for again
    with pytest.raises(InputError, match="Is a server running there"):
        run({**arguments, "deadline": 1})
    assert (out / "run.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "cat"}, "another model"),
        ({"snap": "none"}, "another snap, threshold"),
        ({"threshold": 0.9}, "another threshold"),
        ({"frames": "{tmp_path}/DAVIS/JPEGImages/480p/goat"}, "another frames"),
        ({"frames": "{tmp_path}/out/masks"}, "lies in '.*out', whose content would be replaced"),
        ({"out": "{tmp_path}/DAVIS/JPEGImages/480p/bear"}, "lies in '.*bear'"),
        ({"out": "{tmp_path}/DAVIS"}, "lies in '.*DAVIS'"),
        ({"out": "{tmp_path}/mine"}, r"mine' holds what this command did not make .*notes\.txt"),
        ({"out": "{tmp_path}/mine/notes.txt"}, "is a file"),
    ],
)
def test_what_would_be_lost_is_refused_by_name(arguments, tmp_path, changes, message):
    run(arguments)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    changes = {name: str(value).format(tmp_path=tmp_path) for name, value in changes.items()}
    with pytest.raises(InputError, match=message):
        run({**arguments, **changes})
    after = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    assert after == before


def test_results_of_other_flags_are_replaced_when_asked_for(arguments):
    run(arguments)
    notes = arguments["out"] / "masks" / "notes.txt"
    notes.write_text("mine")
    run({**arguments, "snap": "none", "overwrite": True})
    record = json.loads((arguments["out"] / "run.json").read_text())
    assert record["flags"]["snap"] == "none" and notes.read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": "absent"}, "does not exist"),
        ({"model": "cat"}, "No model 'cat'"),
        ({"server": "localhost"}, "Wanted a server"),
        ({"server": "http://127.0.0.1:1"}, "Is a server running there"),
        ({"server": "127.0.0.1:1"}, "Is a server running there"),
        ({"deadline": 0}, "--deadline must be above 0"),
    ],
)
def test_refused_with_a_message_and_nothing_written(arguments, impatient, changes, message):
    with pytest.raises(InputError, match=message):
        run({**arguments, **changes})
    assert not arguments["out"].exists()


def test_a_mistake_does_not_cost_an_earlier_result(arguments, impatient):
    run(arguments)
    before = read_files(arguments["out"] / "masks")
    with pytest.raises(InputError, match="No model 'cat'"):
        run({**arguments, "model": "cat", "overwrite": True})
    assert read_files(arguments["out"] / "masks") == before
    assert (arguments["out"] / "run.json").exists()


def test_a_server_that_goes_away(arguments, saved_models, impatient, monkeypatch):
    server = model_server.ModelServer({"dog": saved_models / "dog"})

    def write_and_stop(path, mask):
        masks.write_mask(path, mask)
        server.__exit__()

    monkeypatch.setattr(query, "write_mask", write_and_stop)
    with server, pytest.raises(InputError, match="No answer for model 'dog'"):
        address = f"http://127.0.0.1:{server.rest_port}"
        run({**arguments, "server": address, "batch_size": 1, "in_flight": 1})
    assert not arguments["out"].exists()
    assert not [path for path in arguments["out"].parent.iterdir() if path.name.startswith(".")]


def test_exit_status_of_a_users_mistake(arguments, commands):
    flags = [f"--{name}={value}" for name, value in {**arguments, "model": "cat"}.items()]
    for flag in (flags, ["--server=x"], [*flags, "--batch_size=0"], [*flags, "word"]):
        status, said = commands.finish("query", flag)
        assert status == 2 and said.startswith("query: ") and "Traceback" not in said


@pytest.mark.parametrize("kind", SERVERS)
def test_several_objects(arguments, specialist, tmp_path, kind):
    """Their ids come back, in frames that show the first alone as well."""
    several = model.with_objects(load_model(specialist), 3)
    fused = several.get_layer("fused")
    kernel, bias = fused.get_weights()
    fused.set_weights([kernel * [1, -1, 0.5], bias + np.array([0.01, 0, 0])])
    folder = tmp_path / "several"
    saved_model.export_saved_model(several, folder / "cats", threshold=0.5, ids=(2, 5, 9))
    with model_server.ModelServer({"cats": folder / "cats"}) as server:
        place = {
            "grpc": f"127.0.0.1:{server.grpc_port}",
            "rest": f"http://127.0.0.1:{server.rest_port}",
            "folder": str(folder),
        }[kind]
        flags = {**arguments, "server": place, "model": "cats"}
        run({**flags, "snap": "none"})
        with pytest.raises(InputError, match=r"knows 3 objects.*--snap=none"):
            run({**flags, "out": tmp_path / "snapped"})
    found = [Image.open(path) for path in sorted((arguments["out"] / "masks").iterdir())]
    assert {image.mode for image in found} == {"P"}
    labels = np.stack([np.array(image) for image in found])
    assert {2, 5} <= set(np.unique(labels).tolist()) <= {0, 2, 5, 9}
