"""One-shot video object segmentation (OSVOS, Caelles et al., CVPR 2017) in Keras and TensorFlow.

    video = osvos_tf.open_video("dog.mp4")
    dog = osvos_tf.learn(video, {0: "dog_first_frame.png"})
    for frame in dog.segment(video):
        frame.name, frame.mask, frame.confidence

Importing the package is silent and cheap: TensorFlow and OpenCV are loaded by what needs them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from osvos_tf.errors import InputError
    from osvos_tf.evaluation.scores import evaluate
    from osvos_tf.media.frames import open_video
    from osvos_tf.network.files import load_model
    from osvos_tf.segmentation.options import LearnOptions, SegmentOptions
    from osvos_tf.segmentation.specialist import Specialist, learn, load

__version__ = "0.1.0"
__all__ = [
    "InputError", "LearnOptions", "SegmentOptions", "Specialist", "evaluate", "learn", "load",
    "load_model", "open_video",
]  # fmt: skip

# Public name -> its module; those that load TensorFlow.
_MODULES = {
    "InputError": "errors",
    "LearnOptions": "segmentation.options",
    "SegmentOptions": "segmentation.options",
    "evaluate": "evaluation.scores",
    "open_video": "media.frames",
}
_NETWORKS = {
    "Specialist": "segmentation.specialist",
    "learn": "segmentation.specialist",
    "load": "segmentation.specialist",
    "load_model": "network.files",
}


def __getattr__(name: str) -> Any:
    if name in _NETWORKS:
        from osvos_tf import runtime

        runtime.import_tensorflow()
    elif name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"osvos_tf.{(_MODULES | _NETWORKS)[name]}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
