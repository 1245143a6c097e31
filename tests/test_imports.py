"""Who may import whom, and that importing is silent."""

import ast
import pathlib
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[1]
LIBRARY = sorted((REPOSITORY / "osvos_tf").glob("*.py"))
PIPELINES = sorted((REPOSITORY / "pipelines").glob("*.py"))

PIXELS = {"cv2", "numpy", "PIL"}
TENSORS = {"numpy", "tensorflow"}
KERAS = {"keras", *TENSORS}
# Module of osvos_tf -> what it may import beside the standard library, `errors` and `files`.
MAY_IMPORT = {
    "__init__": {"evaluation", "model", "options", "specialist", "video"},
    "errors": set(),
    "files": set(),
    "results": set(),
    "progress": set(),
    "runtime": {"__version__", "keras", "tensorflow"},
    # Data: knows nothing of the networks.
    "davis": set(),
    "matlab": {"numpy"},
    "bsds": {"davis", "matlab", "video", "numpy"},
    "label_maps": {"davis", "matlab", "video", "numpy"},
    "video": PIXELS,
    "annotations": {"video", "numpy", "PIL"},
    "painter": PIXELS,
    "salvage": set(),
    "tfrecord": {"davis", "salvage", "video", "tensorflow", *PIXELS},
    "augment": {"recipes", *TENSORS},
    "input_pipeline": {"tfrecord", "augment", "recipes", *TENSORS},
    # The networks and their training.
    "layers": KERAS,
    "keras_file": {"h5py"},
    "model": {"h5py", "keras_file", "layers", *KERAS},
    "cost": {"model"},
    # What others trained: files of their formats, and their names for the networks' layers.
    "plain_pickle": set(),
    "torch_file": {"plain_pickle", "numpy"},
    "caffe_file": {"numpy"},
    "weight_files": {"caffe_file", "matlab", "plain_pickle", "torch_file", "h5py", *TENSORS},
    "weights": {"layers", "model", "weight_files", *KERAS},
    "losses": {*TENSORS},
    "recipes": set(),
    "distribution": {"tensorflow"},
    "training": {"distribution", "losses", "model", "recipes", *KERAS},
    "one_shot": {"input_pipeline", "losses", "model", "recipes", "training", *KERAS},
    # From probabilities to results: knows nothing of training.
    "inference": {"numpy"},
    "snapping": {"cv2", "higra", "numpy"},
    "metrics": {"cv2", "numpy"},
    "contour_metrics": {"cv2", "numpy"},
    "visualize": PIXELS,
    "report": {"metrics", "numpy"},
    "report_page": {"jinja2", "report", "visualize", *PIXELS},
    "evaluation": {"metrics", "video", "numpy"},
    "export": {"google", "inference", "model", "tensorflow_serving", *TENSORS},
    "serving": {"cv2", "grpc", "requests", "tensorflow_serving", *TENSORS},
    # The main job: as a call, for one video, for many.
    "options": {"inference", "keras_file", "recipes"},
    "specialist": {
        "annotations",
        "export",
        "inference",
        "model",
        "one_shot",
        "options",
        "progress",
        "results",
        "snapping",
        "video",
        "keras",
        *PIXELS,
    },
    "video_job": {
        "annotations",
        "inference",
        "options",
        "progress",
        "results",
        "specialist",
        "video",
        "visualize",
        "numpy",
    },
    "worklist": {"davis", "video"},
    "dispatch": set(),
    "worker": {"video_job", "cv2"},
    "engines": {"dispatch", "video_job", "worker", "ray"},
    # The embedded server: knows SavedModels, not the networks in them.
    "wire": {"google", "grpc", "tensorflow_serving", *TENSORS},
    "served_models": {"google", "grpc", "tensorflow_serving", "wire", *TENSORS},
    "grpc_front": {"google", "grpc", "served_models", "tensorflow_serving", "wire", *TENSORS},
    "rest_front": {"aiohttp", "grpc", "numpy", "prometheus_client", "served_models", "wire"},
    "model_server": {
        "grpc",
        "grpc_front",
        "numpy",
        "PIL",
        "prometheus_client",
        "rest_front",
        "served_models",
        "tensorflow_serving",
        "wire",
    },
}
EVERYWHERE = {"errors", "files", "runtime"}
WITHOUT_TENSORFLOW = ["annotations", "bsds", "caffe_file", "contour_metrics", "davis", "dispatch",
                      "engines", "errors", "evaluation", "files", "inference", "label_maps",
                      "matlab", "metrics", "options", "painter", "plain_pickle", "progress",
                      "recipes", "report", "report_page", "results", "runtime", "salvage",
                      "serving", "snapping", "torch_file", "video", "video_job", "visualize",
                      "worker", "worklist"]  # fmt: skip
HEAVY = {"aiohttp", "grpc", "higra", "keras", "requests", "scipy", "tensorflow"}  # seconds to load
# Stage -> what it may import of its neighbours; one that is not here: `cli`.
SHARED = {
    "train_parent": {"cli", "offline"},
    "train_contour": {"cli", "offline"},
    "segment_dataset": {"cli", "segment"},
}


def imports(path):
    """Names that a file imports, also inside functions: `x` for osvos_tf.x, else the package.

    What is imported for the type checker alone is left out: it loads nothing, and two modules may
    name each other's classes.
    """
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    for block in blocks:
        if ast.unparse(block.test) == "TYPE_CHECKING":
            block.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}, line {node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            found.add(rest.partition(".")[0] if package == "osvos_tf" and rest else package)
    return found - sys.stdlib_module_names


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_modules_import_only_what_they_may(path):
    assert path.stem in MAY_IMPORT, f"add {path.stem} to the table: what may it import?"
    assert imports(path) <= MAY_IMPORT[path.stem] | EVERYWHERE


def test_the_table_has_no_circle():
    """A module is below all that may import it, so no order of imports can fail."""
    left = {name: allowed & set(MAY_IMPORT) for name, allowed in MAY_IMPORT.items()}
    while left:
        ready = [name for name, below in left.items() if not below & set(left)]
        assert ready, f"these modules may import each other: {sorted(left)}"
        for name in ready:
            del left[name]


def reach(name):
    """All modules of osvos_tf that `name` may load, directly or not."""
    below = MAY_IMPORT[name] & set(MAY_IMPORT)
    return below.union(*map(reach, below))


def test_sides_stay_apart():
    networks = {"layers", "model", "weights", "losses", "training"}
    for data in (
        "davis",
        "video",
        "annotations",
        "tfrecord",
        "augment",
        "input_pipeline",
        "painter",
        "options",
        "results",
    ):
        assert not reach(data) & networks
    for judge in (
        "metrics",
        "serving",
        "model_server",
        "report",
        "report_page",
        "evaluation",
        "inference",
        "snapping",
    ):
        assert not reach(judge) & {"training", "losses", "recipes", "model"}


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_stages_share_only_cli(path):
    """A stage stands alone but for what the table says; the demonstration runs all."""
    stages = {other.stem for other in PIPELINES}
    used = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "pipelines":
            _, _, stage = node.module.partition(".")
            used |= {stage} if stage else {alias.name for alias in node.names}
    assert used <= (stages if path.stem == "demo" else SHARED.get(path.stem, {"cli"}))
    assert not imports(path) & {"tests", "benchmarks"}


def run_python(program, folder):
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, text=True, capture_output=True, timeout=120
    )


def test_importing_is_silent_and_light(tmp_path):
    """The package and its modules for pixels and paths: no word, no file, no TensorFlow."""
    modules = ", ".join(["osvos_tf", *(f"osvos_tf.{name}" for name in WITHOUT_TENSORFLOW)])
    process = run_python(
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        f"import {modules}\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)",
        tmp_path,
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command", [path.stem for path in PIPELINES if "def run()" in path.read_text(encoding="utf-8")]
)
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
