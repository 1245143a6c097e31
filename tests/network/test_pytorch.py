"""The network once more in PyTorch, where that is installed: as the authors' PyTorch version is.

Against `test_model.reference_network` this one has transposed convolutions of 16 channels with full
kernels, and PyTorch's own pooling, padding and axes.
"""

import numpy as np
import pytest

from osvos_tf.network import layers, model
from support.layer_values import tent
from support.networks import frames, tiny, trained

torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is needed only here")
functional = torch.nn.functional


def as_torch(array):
    return torch.from_numpy(np.asarray(array, np.float64))


def enlarge(maps, stride, size, crop):
    """Transposed convolution, the bilinear filter on the kernel's channel diagonal; then a crop."""
    diagonal = np.eye(maps.shape[1])[:, :, None, None]
    large = functional.conv_transpose2d(
        maps, as_torch(diagonal * np.outer(tent(stride), tent(stride))), stride=stride
    )
    if crop == "aligned":
        top = left = stride // 2
        return large[:, :, top : top + size[0], left : left + size[1]]
    # Negative padding cuts; half of the surplus on each side, the odd pixel right and below.
    surplus = [large.shape[axis] - size[axis - 2] for axis in (3, 2)]
    return functional.pad(large, [cut for s in surplus for cut in (-(s // 2), -(s - s // 2))])


def torch_network(weights, images, crop, scale):
    """Float64 logits by name, [batch, height, width, 1]."""

    def convolve(x, name):
        kernel, bias = weights[name]
        kernel = as_torch(kernel).permute(3, 2, 0, 1)
        return functional.conv2d(x, kernel, as_torch(bias), padding=kernel.shape[2] // 2)

    mean = as_torch((104.00699, 116.66877, 122.67892)).reshape(1, 3, 1, 1)
    x = (as_torch(images).permute(0, 3, 1, 2).flip(1) - mean) * scale
    size, logits, features = x.shape[2:], {}, []
    for stage, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
        if stage > 1:
            x = functional.max_pool2d(x, 2, stride=2, ceil_mode=True)
        for index in range(1, convolutions + 1):
            x = convolve(x, f"block{stage}_conv{index}").relu()
        if stage > 1:
            stride = 2 ** (stage - 1)
            side = convolve(x, f"prep_side{stage}")
            score = convolve(side, f"score_side{stage}")
            logits[f"side{stage}"] = enlarge(score, stride, size, crop)
            features.append(enlarge(side, stride, size, crop))
    logits["fused"] = convolve(torch.cat(features, dim=1), "fused")
    return {name: values.permute(0, 2, 3, 1).numpy() for name, values in logits.items()}


@pytest.mark.parametrize("crop", layers.CROPS)
@pytest.mark.parametrize(
    ("width_multiplier", "size"), [(1 / 16, (1, 7)), (1 / 16, (37, 53)), (1.0, (45, 86))]
)
def test_network_equals_pytorch(crop, width_multiplier, size):
    network = trained(tiny(crop=crop, width_multiplier=width_multiplier))
    weights = {layer.name: layer.get_weights() for layer in network.layers if layer.weights}
    images = frames(*size)
    expected = torch_network(weights, images, crop, 1 / 64)
    assert set(expected) == set(model.OUTPUTS)
    for name, logits in network(images).items():
        tolerance = 1e-4 * np.abs(expected[name]).max()
        np.testing.assert_allclose(logits, expected[name], rtol=0, atol=tolerance, err_msg=name)
