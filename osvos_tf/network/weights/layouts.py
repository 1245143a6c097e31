"""What the layers of a family of networks are called elsewhere, and how their arrays lie.

Every family of files is a `Layout`. All layouts walk the same tables of layers.
"""

import dataclasses
from collections.abc import Callable

from osvos_tf import runtime  # noqa: F401 (before Keras: it decides what that runs on)

# isort: split
import numpy as np

from osvos_tf.network import layers
from osvos_tf.network.model import SIDE_CHANNELS, SIDES, VGG_BLOCKS

FORMATS = {"tf": ("checkpoint", "npy"), "pytorch": ("torch",), "caffe": ("caffe",)}

# torchvision's colours are RGB in 0..1, minus this mean, divided by this deviation.
_TORCHVISION_MEAN = (0.485, 0.456, 0.406)
_TORCHVISION_DEVIATION = (0.229, 0.224, 0.225)

Row = dict[str, str]  # a layer's names elsewhere

# Axes of a kernel in a file, in the order of Keras: height, width, channels in, channels out.
_HWIO, _OIHW, _WHIO = (0, 1, 2, 3), (2, 3, 1, 0), (1, 0, 2, 3)


def _trunk() -> dict[str, Row]:
    """Returns VGG16's layers: our name -> the names elsewhere, by which layouts are filled in."""
    names: dict[str, Row] = {}
    place = 0
    for stage, (convolutions, _) in enumerate(VGG_BLOCKS, start=1):
        for index in range(1, convolutions + 1):
            ours, caffe = f"block{stage}_conv{index}", f"conv{stage}_{index}"
            names[ours] = {
                "keras": ours,
                "caffe": caffe,
                "tf": f"conv{stage}/{caffe}",
                # Each stage of the authors' begins with its pool, but for the first.
                "torch": f"stages.{stage - 1}.{2 * (index - 1) + (stage > 1)}",
                "torchvision": f"features.{place}",
                "number": str(len(names)),
            }
            place += 2  # the convolution and its ReLU
        place += 1  # the pool
    return names


def _heads() -> dict[str, Row]:
    """Returns the layers that OSVOS adds, as `_trunk` does."""
    names: dict[str, Row] = {}
    for index, side in enumerate(SIDES):
        stage = index + 2
        caffe = f"conv{stage}_{VGG_BLOCKS[stage - 1][0]}_{SIDE_CHANNELS}"
        score = f"score-dsn_{stage}"
        names[f"prep_{side}"] = {"caffe": caffe, "tf": caffe, "torch": f"side_prep.{index}"}
        names[f"score_{side}"] = {"caffe": score, "tf": score, "torch": f"score_dsn.{index}"}
    return names | {
        "fused": {"caffe": "new-score-weighting", "tf": "upscore-fuse", "torch": "fuse"}
    }


def _upsamplers() -> dict[tuple[int, int], Row]:
    """Returns the fixed upsampling, which is no layer of ours: (stride, channels) -> its names."""
    names: dict[tuple[int, int], Row] = {}
    for index, stride in enumerate(SIDES.values()):
        stage = index + 2
        names[stride, SIDE_CHANNELS] = {
            "caffe": f"upsample{stride}_",
            "tf": f"score-multi{stage}-up",
            "torch": f"upscale.{index}",
        }
        names[stride, 1] = {
            "caffe": f"upsample_{stride}",
            "tf": f"score-dsn_{stage}-up",
            "torch": f"upscale_.{index}",
        }
    return names


TRUNK, HEADS, UPSAMPLERS = _trunk(), _heads(), _upsamplers()


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one family of files holds a network's arrays."""

    title: str
    kind: str  # of `readers.KINDS`
    kernel: str  # the name of a layer's kernel, to be filled in from the tables above
    bias: str
    axes: tuple[int, ...]
    passed_over: str = r"(?!)"  # pattern of names to skip; by default none
    # The first convolution, made for other colours -> made for ours.
    first: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None
    crop: str = "aligned"  # with which the weights were trained
    network: str = "foreground"
    has_scores: bool = True  # always; else they may be absent

    def names(self, row: Row) -> tuple[str, str]:
        """Returns the names in the file of a layer's kernel and bias."""
        contour = row["caffe"].rstrip("_") + "_contour"
        return self.kernel.format(**row, contour=contour), self.bias.format(**row, contour=contour)


def _from_rgb(kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turns the first convolution for RGB into one for BGR."""
    return kernel[:, :, ::-1], bias


def _from_torchvision(kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Folds torchvision's scaling of colours into the first convolution.

    With t for torchvision's input and x for ours (BGR, minus `MEAN_BGR`), both of the same frame,
    t = (x + MEAN_BGR - mean) / deviation, all in BGR and 0..255. So the kernel is divided, and the
    bias takes the difference of the means (a grey level at most). This is exact but for what lies
    outside of the frame: both pad with zeros, which is `MEAN_BGR` to us and the other mean there.
    """
    kernel = kernel[:, :, ::-1].astype(np.float64)
    mean = 255 * np.array(_TORCHVISION_MEAN)[::-1]
    deviation = 255 * np.array(_TORCHVISION_DEVIATION)[::-1]
    kernel = kernel / deviation[:, None]
    shift = np.array(layers.MEAN_BGR) - mean
    return kernel, bias + np.einsum("hwio,i->o", kernel, shift)


VGG16_LAYOUTS = (
    Layout(
        title="VGG16 of Keras",
        kind="hdf5",
        kernel="{keras}/0",
        bias="{keras}/1",
        axes=_HWIO,
        passed_over=r"(fc1|fc2|predictions)/",
    ),
    Layout(
        title="VGG16 of TF-Slim",
        kind="checkpoint",
        kernel="vgg_16/{tf}/weights",
        bias="vgg_16/{tf}/biases",
        axes=_HWIO,
        passed_over=r"vgg_16/(fc\d|mean_rgb)|.*/Momentum$|global_step$",
        first=_from_rgb,
    ),
    Layout(
        title="VGG16 of torchvision",
        kind="torch",
        kernel="{torchvision}.weight",
        bias="{torchvision}.bias",
        axes=_OIHW,
        passed_over=r"classifier\.",
        first=_from_torchvision,
    ),
    Layout(
        title="VGG16 of the authors (vgg_caffe.mat)",
        kind="mat",
        kernel="weights/{number}",
        bias="biases/{number}",
        axes=_WHIO,
    ),
    Layout(
        title="VGG16 of Caffe",
        kind="caffe",
        kernel="{caffe}/0",
        bias="{caffe}/1",
        axes=_OIHW,
        passed_over=r"fc\d",
    ),
)
OSVOS_LAYOUTS = (
    Layout(
        title="OSVOS of TensorFlow",
        kind="checkpoint",
        kernel="osvos/{tf}/weights",
        bias="osvos/{tf}/biases",
        axes=_HWIO,
        passed_over=r".*/Momentum$|global_step$",
        crop="center",
    ),
    # Made from a Caffe model, to be read by the TensorFlow version.
    Layout(
        title="OSVOS of Caffe, as a dict of arrays",
        kind="npy",
        kernel="{caffe}_w",
        bias="{caffe}_b",
        axes=_HWIO,
    ),
    Layout(
        title="OSVOS of PyTorch",
        kind="torch",
        kernel="{torch}.weight",
        bias="{torch}.bias",
        axes=_OIHW,
        crop="center",
    ),
    Layout(
        title="OSVOS of Caffe",
        kind="caffe",
        kernel="{caffe}/0",
        bias="{caffe}/1",
        axes=_OIHW,
        has_scores=False,
    ),
    Layout(
        title="contour network of Caffe",
        kind="caffe",
        kernel="{contour}/0",
        bias="{contour}/1",
        axes=_OIHW,
        network="contour",
        has_scores=False,
    ),
)
