"""The network's own layers: preprocessing, bilinear upsampling with its crop, and the fusion."""

from collections.abc import Iterable, Sequence
from typing import Any

from osvos_tf import runtime  # before Keras: it decides what that runs on

# isort: split
import keras
import tensorflow as tf

runtime.require_backend()

# Mean colour of ImageNet as the authors subtract it (all three repositories).
MEAN_BGR = (104.00699, 116.66877, 122.67892)
CROPS = ("aligned", "center")

Shape = tuple[int | None, int | None, int | None, int]  # batch, height, width, channels

register = keras.saving.register_keras_serializable("osvos_tf")


def upsample(maps: tf.Tensor, stride: int, size: tf.Tensor, crop: str) -> tf.Tensor:
    """Enlarges maps by the fixed bilinear filter of a transposed convolution, then crops.

    The authors' filter has kernel 2 * stride and sees zeros outside the map. Bilinear resizing of
    the map with a border of one zero gives the same numbers, and is much cheaper.

    Args:
        maps: float32 [batch, rows, columns, channels], `rows` = ceil(height / stride).
        stride: power of two.
        size: int32 [2] tensor (height, width) of the result.
        crop: "aligned" starts at stride / 2, where map and image coincide (Caffe version);
            "center" starts at half of the surplus, rounded down (TensorFlow, PyTorch versions).

    Returns:
        float32 [batch, height, width, channels].
    """
    rows_columns = tf.shape(maps)[1:3]
    padded = tf.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
    large = tf.image.resize(padded, (rows_columns + 2) * stride)
    # The transposed convolution's (n + 1) * stride values start stride / 2 after the resized ones.
    if crop == "aligned":
        offset = tf.fill([2], stride)
    else:
        offset = stride // 2 + ((rows_columns + 1) * stride - size) // 2
    return large[:, offset[0] : offset[0] + size[0], offset[1] : offset[1] + size[1], :]


def check_crop(crop: str) -> str:
    """Returns `crop` if it is a known rule, else raises ValueError."""
    if crop not in CROPS:
        raise ValueError(f"crop must be one of {CROPS}. Received: {crop!r}.")
    return crop


@register
class Preprocess(keras.layers.Layer):
    """RGB 0..255 to the network's input: BGR, mean colour subtracted, times `scale`; float32.

    Args:
        scale: factor after the mean is subtracted. 1 is VGG16's; training from random weights
            prefers values near one, hence 1/64.
        working_height: height in pixels of the frames that the weights were trained on, or None
            where the weights take frames as they come. Kept here because it travels with the
            model; `build_predictor` and `segment` read it.
    """

    def __init__(self, scale: float = 1.0, working_height: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.scale = scale
        self.working_height = working_height

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Maps [batch, height, width, 3] RGB in 0..255 to float32 BGR of the same shape."""
        bgr = tf.reverse(tf.cast(images, tf.float32), axis=[-1])
        return (bgr - tf.constant(MEAN_BGR)) * self.scale

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """The shape does not change."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "scale": self.scale,
            "working_height": self.working_height,
        }


@register
class Upsample(keras.layers.Layer):
    """Enlarges one map from 1/stride of the image's size to all of it; fixed, not trained.

    Called with `[maps, image]`; returns float32 [batch, height, width, channels].
    """

    def __init__(self, stride: int, crop: str = "aligned", **kwargs: Any):
        super().__init__(**kwargs)
        self.stride = stride
        self.crop = check_crop(crop)

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """See `upsample`."""
        maps, image = inputs
        return upsample(maps, self.stride, tf.shape(image)[1:3], self.crop)

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        """The image's height and width, the maps' channels."""
        maps, image = input_shape
        return (*image[:3], maps[-1])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "stride": self.stride, "crop": self.crop}


_MOST_HEIGHTS = 16  # of a resized image's width, as a multiple of its height


@register
class ResizeToHeight(keras.layers.Layer):
    """Resizes images to a fixed height in pixels, their shape kept; bilinear, without aliasing.

    Args:
        height: of a frame after resizing.
        frame_height: of a frame before resizing, where the images are windows of frames; None
            where they are whole frames.
    """

    def __init__(self, height: int, frame_height: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.height = height
        self.frame_height = frame_height

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Maps [batch, height, width, 3] to float32 [batch, scaled height, scaled width, 3]."""
        size = tf.shape(images)[1:3]
        scaled = tf.round(size * self.height / (self.frame_height or size[0]))
        # What a strip of a few rows would become knows no bound otherwise.
        scaled = tf.clip_by_value(scaled, 1, _MOST_HEIGHTS * self.height)
        return tf.image.resize(images, tf.cast(scaled, tf.int32), antialias=True)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """The height, fixed for whole frames; the width depends on the image."""
        height = self.height if self.frame_height is None else None
        return (input_shape[0], height, None, input_shape[3])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "height": self.height,
            "frame_height": self.frame_height,
        }


@register
class ResizeLike(keras.layers.Layer):
    """Resizes maps to the height and width of an image; bilinear. Called with `[maps, image]`."""

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Maps [batch, rows, columns, channels] to float32 [batch, height, width, channels]."""
        maps, image = inputs
        return tf.image.resize(maps, tf.shape(image)[1:3])

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        """The image's height and width, the maps' channels."""
        maps, image = input_shape
        return (*image[:3], maps[-1])


@register
class Fuse(keras.layers.Layer):
    """The 1x1 convolution over all upsampled side features, run before the upsampling.

    It makes one channel of 64, or one for each of several objects. A 1x1 convolution and a
    per-channel upsampling are both linear and commute, so each side's 16 channels are reduced
    first: the same function at a sixteenth of the memory.

    Called with `[features of side 2, ..., features of side 5, image]`; returns float32 logits
    [batch, height, width, objects].
    """

    def __init__(
        self,
        strides: Iterable[int],
        crop: str = "aligned",
        kernel_initializer: str | dict[str, Any] | keras.initializers.Initializer = "zeros",
        objects: int = 1,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.strides = tuple(strides)
        self.crop = check_crop(crop)
        self.objects = objects
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Sequence[Shape]) -> None:
        """One kernel for all sides, in order 2, 3, 4, 5, as the authors' weights have it."""
        channels = sum(shape[-1] for shape in input_shape[:-1])
        self.kernel = self.add_weight(
            name="kernel", shape=(1, 1, channels, self.objects), initializer=self.kernel_initializer
        )
        self.bias = self.add_weight(name="bias", shape=(self.objects,), initializer="zeros")
        self.built = True

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Reduces, upsamples and adds up the sides."""
        *sides, image = inputs
        size = tf.shape(image)[1:3]
        kernels = tf.split(tf.convert_to_tensor(self.kernel), len(sides), axis=2)
        fused = tf.convert_to_tensor(self.bias)
        for features, kernel, stride in zip(sides, kernels, self.strides, strict=True):
            reduced = tf.nn.conv2d(features, kernel, strides=1, padding="VALID")
            fused = fused + upsample(reduced, stride, size, self.crop)
        return fused

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        """The image's height and width, a channel an object."""
        return (*input_shape[-1][:3], self.objects)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "strides": self.strides,
            "crop": self.crop,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "objects": self.objects,
        }
