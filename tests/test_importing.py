"""Importing is silent and cheap, and `--help` waits for nothing that is slow to load."""

import subprocess
import sys

import pytest

from support.world import REPOSITORY

# Whole rooms, and modules of others.
WITHOUT_TENSORFLOW = [
    "osvos_tf",
    *("osvos_tf." + name for name in ("errors", "files", "progress", "results", "runtime")),
    *("osvos_tf." + name for name in ("evaluation", "formats", "jobs", "media")),
    "osvos_tf.data.bsds",
    "osvos_tf.data.davis",
    "osvos_tf.data.label_maps",
    "osvos_tf.data.painted_world",
    "osvos_tf.network.parents",
    "osvos_tf.segmentation.annotations",
    "osvos_tf.segmentation.inference",
    "osvos_tf.segmentation.options",
    "osvos_tf.segmentation.snapping",
    "osvos_tf.serving.client",
    "osvos_tf.training.recipes",
]
HEAVY = {"aiohttp", "grpc", "higra", "keras", "requests", "scipy", "tensorflow"}  # seconds to load
COMMANDS = sorted(path.stem for path in (REPOSITORY / "pipelines").glob("[!_]*.py"))


# Imports each, and if it is a room all that is in it.
IMPORT_ALL = f"""
import importlib, pkgutil, sys
sys.path.insert(0, {str(REPOSITORY)!r})
for name in {WITHOUT_TENSORFLOW}:
    module = importlib.import_module(name)
    if name != "osvos_tf" and hasattr(module, "__path__"):
        for inner in pkgutil.iter_modules(module.__path__, name + "."):
            importlib.import_module(inner.name)
assert not {{"tensorflow", "keras"}} & set(sys.modules)
"""


def run_python(program, folder):
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, text=True, capture_output=True, timeout=120
    )


def test_importing_is_silent_and_light(tmp_path):
    """The package and its modules for pixels and paths: no word, no file, no TensorFlow."""
    process = run_python(IMPORT_ALL, tmp_path)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_waits_for_no_heavy_library(command):
    """What takes long to load is loaded when it is needed: `--help` answers in half a second."""
    process = run_python(
        "import runpy, sys\n"
        "sys.argv = ['command', '--help']\n"
        "try:\n"
        f"    runpy.run_module('pipelines.{command}', run_name='__main__')\n"
        "except SystemExit as done:\n"
        "    assert done.code == 0\n"
        f"assert not {HEAVY} & set(sys.modules)",
        REPOSITORY,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert "Flags:" in process.stdout
