"""Package metadata and dependencies; tool settings live in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "osvos_tf/__init__.py").read_text()).group(1)

REQUIREMENTS = [
    "tensorflow>=2.15,<2.22",  # the networks, tf.data, training and serving
    "keras>=2.15,<4",  # the functional graphs and the .keras format
    "numpy>=1.26,<3",  # arrays in metrics, inference and snapping
    # FFmpeg's libraries: they decode and encode what OpenCV cannot. 17.1: the last on Python 3.10.
    "av>=17.1,<19",
    # OpenCV: drawing, boundaries, thinning of contours. Headless: no display libraries.
    "opencv-contrib-python-headless>=4.9,<6",
    "pillow>=10.1,<14",  # palette masks: OpenCV turns palette indices into colours
    "h5py>=3.10,<4",  # inside .keras files, and VGG16 as Keras distributes it; Keras brings it
    "higra>=0.6.6,<0.7",  # graph hierarchies: the tree in which superpixels merge, for snapping
    "absl-py>=2.0,<3",  # the commands' flags
    "jinja2>=3.1,<4",  # report.html: loops, and escaping of the names that users give
    "tqdm>=4.66,<5",  # progress bars
    "tensorboard>=2.15,<2.22",  # tf.summary needs it; TF 2.21 no longer brings it
]
EXTRAS = {
    "serving": [
        "tensorflow-serving-api>=2.15,<2.22",  # TF Serving's own messages and gRPC stubs
        "grpcio>=1.60,<2",  # the embedded server's and the client's gRPC
        "grpcio-health-checking>=1.60,<2",  # gRPC's own health service, which Kubernetes asks
        # The embedded server's REST side; older ones unpack a compressed body at once, of any size.
        "aiohttp>=3.13.3,<4",
        "prometheus-client>=0.20,<1",  # its /metrics
        "requests>=2.31,<3",  # the REST client
    ],
    "studio": [
        "aiohttp>=3.13.3,<4",  # the page's server; the page itself loads nothing
    ],
    "addons": [  # the last stack that it supports; tests/test_addons.py holds our own against it
        "tensorflow-addons>=0.23,<0.24",
        "tensorflow>=2.15.1,<2.16",
    ],
    "distributed": [
        "ray>=2.30,<3",  # segment_dataset on a cluster: its actors; nothing else of it is used
    ],
    "dev": [
        "pytest>=8,<10",  # the tests
        "hypothesis>=6.100,<7",  # property tests
        "scipy>=1.11,<2",  # writes the tests' .mat files; their matching and transforms
        "pytest-timeout>=2.3,<3",  # a hanging process test must fail, not hang
        "pytest-xdist>=3.6,<4",  # test files side by side: many of them wait for processes
        "ruff>=0.8,<1",  # lint and format
        "playwright>=1.49,<2",  # drives the Chromium that is installed: do videos play?
        "mypy>=2,<3",  # type checks; a new major version finds other things
        "import-linter>=2.15,<3",  # which room may import which
    ],
}
COMMANDS = [
    "davis_to_tfrecord", "train_parent", "train_contour", "segment", "segment_dataset", "evaluate",
    "import_weights", "export_saved_model", "serve", "query", "studio", "demo",
]  # fmt: skip

setup(
    name="osvos_tf",
    version=VERSION,
    description="One-shot video object segmentation (OSVOS) in Keras and TensorFlow",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    package_dir={"": "."},  # an editable install is then a path, without a finder at each start
    packages=find_packages(include=["osvos_tf", "osvos_tf.*"]),
    package_data={
        "osvos_tf": [
            "py.typed",
            "*/*.jinja",
            "network/parents/*",
            "network/beside_models/*",
            "studio/static/*",
        ]
    },
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            f"osvos-{name.replace('_', '-')} = osvos_tf.commands.{name}:run" for name in COMMANDS
        ]
    },
)
