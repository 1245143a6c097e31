"""The clients of `deploy/clients`, which know the protocols' documents alone, against a server."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from osvos_tf.network import model, saved_model
from osvos_tf.serving import server as model_server
from support.world import REPOSITORY

CLIENTS = REPOSITORY / "deploy" / "clients"
SECONDS = 120


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base_path = tmp_path_factory.mktemp("saved_models") / "specialist"
    network = model.build_foreground(width_multiplier=1 / 16, start="scratch", seed=0)
    saved_model.export_saved_model(network, base_path, threshold=0.5)
    with model_server.ModelServer({"a dog": base_path}, poll_seconds=60) as running:
        yield running


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "frame.png")
    return tmp_path / "frame.png"


def ask(command, *arguments):
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=SECONDS
    )


COMMANDS = {
    "python": [sys.executable, str(CLIENTS / "masks.py")],
    "node": ["node", str(CLIENTS / "masks.mjs")],
}


@pytest.mark.parametrize(
    ("name", "protocol"), [("python", "rest"), ("python", "grpc"), ("node", "rest")]
)
def test_a_picture_goes_in_and_its_mask_comes_out(server, picture, tmp_path, name, protocol):
    if shutil.which(COMMANDS[name][0]) is None:
        pytest.skip(f"there is no {name}")
    address = {
        "rest": f"http://127.0.0.1:{server.rest_port}",
        "grpc": f"127.0.0.1:{server.grpc_port}",
    }[protocol]
    mask = tmp_path / "mask.png"
    done = ask(COMMANDS[name], address, "a dog", picture, mask)
    assert done.returncode == 0, done.stderr
    with Image.open(mask) as found:
        assert found.size == (80, 48) and set(np.unique(found)) <= {0, 255}
    done = ask(COMMANDS[name], address, "a cat", picture, tmp_path / "none.png")
    assert done.returncode == 1 and "Servable not found" in done.stderr
    assert not (tmp_path / "none.png").exists()
    assert ask(COMMANDS[name], address).returncode in (1, 2)
