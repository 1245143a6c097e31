"""How TensorFlow is loaded, in processes of their own."""

import json
import os
import subprocess
import sys
import types

import pytest

from osvos_tf import runtime
from osvos_tf.errors import InputError
from support.world import REPOSITORY


def run(program, **env):
    path = os.pathsep.join([env.pop("PYTHONPATH", ""), str(REPOSITORY)])
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **env, "PYTHONPATH": path.lstrip(os.pathsep)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def fake_tensorflow(folder, body):
    folder.mkdir()
    chatter = "import os\nos.write(2, b'cuda is cuda\\n')\n"
    (folder / "tensorflow.py").write_text(chatter + body + "\n")
    return str(folder)


LOAD = "import os\nfrom osvos_tf.runtime import import_tensorflow\ntf = import_tensorflow()\n"


def test_chatter_is_kept_back(tmp_path):
    done = run(
        LOAD + "os.write(2, b'later')", PYTHONPATH=fake_tensorflow(tmp_path / "fake", "x = 1")
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "later")


def test_chatter_is_shown_where_the_import_fails(tmp_path):
    path = fake_tensorflow(tmp_path / "fake", "raise ImportError('no AVX')")
    done = run(LOAD, PYTHONPATH=path)
    assert done.returncode == 1
    assert done.stderr.startswith("cuda is cuda\nTraceback") and "no AVX" in done.stderr


def test_chatter_is_shown_where_notebooks_show_it(tmp_path):
    """They replace `sys.stderr`; file descriptor 2 leads to a log that nobody reads."""
    path = fake_tensorflow(tmp_path / "fake", "raise ImportError('no AVX')")
    program = (
        "import io, sys\n"
        "sys.stderr = io.StringIO()\n"
        "from osvos_tf.runtime import import_tensorflow\n"
        "try: import_tensorflow()\n"
        "except ImportError: print(sys.stderr.getvalue(), end='')"
    )
    done = run(program, PYTHONPATH=path)
    assert (done.stdout, done.stderr) == ("cuda is cuda\n", "")


def test_a_crash_says_where(tmp_path):
    """As on a processor that lacks what TensorFlow was built for."""
    done = run(LOAD, PYTHONPATH=fake_tensorflow(tmp_path / "fake", "os.abort()"))
    assert done.returncode < 0
    assert "Fatal Python error" in done.stderr and "tensorflow.py" in done.stderr


@pytest.mark.parametrize("closed", ["os.close(2)", "os.close(2); sys.stderr = None"])
def test_without_a_standard_error(tmp_path, closed):
    path = fake_tensorflow(tmp_path / "fake", "x = 1")
    done = run(f"import os, sys\n{closed}\n{LOAD}print(tf.x)", PYTHONPATH=path)
    assert (done.returncode, done.stdout) == (0, "1\n")


def test_nowhere_to_keep_chatter(tmp_path):
    path = fake_tensorflow(tmp_path / "fake", "x = 1")
    nowhere = "import tempfile\ntempfile.tempdir = '/nonexistent'\n"
    done = run(nowhere + LOAD, PYTHONPATH=path)
    assert (done.returncode, done.stderr) == (0, "cuda is cuda\n")


# --- C2: Keras on another backend, or with other settings -----------------------------------------

MASKS = """
import hashlib, sys
import numpy as np
import osvos_tf.{first}
from osvos_tf.network import layers, model
from osvos_tf.network.files import load_model
from osvos_tf.network.parents import PARENTS
from osvos_tf.training import loop, recipes
frames = np.random.default_rng(0).integers(0, 256, [1, 48, 64, 3], np.uint8)
network = model.build_foreground(width_multiplier=0.1, start="scratch", seed=0)
types = {{variable.dtype for variable in network.weights}}
parent = load_model(PARENTS['compact'])
stage = recipes.ONE_SHOTS["paper"]
rate = float(loop._make_optimizer(stage).learning_rate)
for predictor in (model.build_predictor(parent, height=24), model.build_predictor(network)):
    print(hashlib.sha256(predictor(frames).numpy().tobytes()).hexdigest())
print(sorted(map(str, types)), abs(rate / stage.rate - 1) < 1e-3)
"""


@pytest.mark.parametrize("first", ["network.model", "training.loop"])
def test_settings_of_keras_change_nothing(first, tmp_path):
    """No torch is installed here, so that its backend would fail at once."""
    settings = {"backend": "torch", "image_data_format": "channels_first", "floatx": "float16"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    expected = run(MASKS.format(first=first), KERAS_HOME=str(tmp_path / "none"))
    assert expected.returncode == 0, expected.stderr
    found = run(MASKS.format(first=first), KERAS_HOME=str(tmp_path), KERAS_BACKEND="torch")
    assert found.returncode == 0, found.stderr
    assert found.stdout == expected.stdout
    assert found.stdout.endswith("['float32'] True\n")


def test_keras_is_loaded_already_and_runs_on_something_else(monkeypatch):
    other = types.SimpleNamespace(backend=types.SimpleNamespace(backend=lambda: "torch"))
    monkeypatch.setitem(sys.modules, "keras", other)
    with pytest.raises(InputError, match=r"loaded already and runs on torch.*KERAS_BACKEND=tens"):
        runtime.import_tensorflow()
