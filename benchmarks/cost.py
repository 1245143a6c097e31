"""How many floating-point operations the network takes: exact counts from the model's tables.

Counts the matrix work, which sets the least time that a pass can take: a multiplication and an
addition for each weight of a convolution at each pixel of its map, the zeros beyond the border
among them, as libraries compute them. Activations, pooling, upsampling and the loss are a few
operations a value and left out.
"""

import dataclasses
from collections.abc import Iterator

from osvos_tf.network import model


@dataclasses.dataclass(frozen=True)
class Convolution:
    """One convolution of the network, at one size of frame.

    Attributes:
        name: of its layer; the fusion's four parts are `fused_side2` and so on.
        block: the VGG block that it belongs to or whose features it reads, from 1.
        rows: of its map, in pixels.
        columns: of its map.
        kernel: side of its window.
        inputs: channels that it reads.
        outputs: channels that it gives.
    """

    name: str
    block: int
    rows: int
    columns: int
    kernel: int
    inputs: int
    outputs: int

    @property
    def flops(self) -> int:
        """Operations for one frame; either gradient, of weights or input, takes as many."""
        return 2 * self.rows * self.columns * self.kernel**2 * self.inputs * self.outputs


def convolutions(
    height: int, width: int, *, width_multiplier: float = 1.0, sides: bool = False
) -> Iterator[Convolution]:
    """Yields the convolutions that a frame goes through.

    Args:
        height: of the frame that the network sees, in pixels.
        width: of that frame.
        width_multiplier: see `model.build_foreground`.
        sides: whether the side outputs are used too, not only the fused one.
    """
    rows, columns, inputs = height, width, 3
    for block, (count, channels) in enumerate(model.VGG_BLOCKS, start=1):
        if block > 1:
            rows, columns = -(-rows // 2), -(-columns // 2)  # pooling keeps odd edges
        place = block, rows, columns
        for index in range(1, count + 1):
            outputs = max(1, round(channels * width_multiplier))
            yield Convolution(f"block{block}_conv{index}", *place, 3, inputs, outputs)
            inputs = outputs
        if block > 1:
            yield Convolution(f"prep_side{block}", *place, 3, inputs, model.SIDE_CHANNELS)
            for head in ("fused", "score") if sides else ("fused",):
                yield Convolution(f"{head}_side{block}", *place, 1, model.SIDE_CHANNELS, 1)


def forward_flops(
    height: int,
    width: int,
    *,
    batch_size: int = 1,
    width_multiplier: float = 1.0,
    sides: bool = False,
) -> int:
    """Returns the operations of one forward pass; see `convolutions` for the arguments."""
    layers = convolutions(height, width, width_multiplier=width_multiplier, sides=sides)
    return batch_size * sum(layer.flops for layer in layers)


def training_flops(
    height: int,
    width: int,
    *,
    batch_size: int = 1,
    width_multiplier: float = 1.0,
    sides: bool = False,
    frozen_blocks: int = 0,
    kept: bool = False,
) -> int:
    """Returns the operations of one training step: forward pass and gradients of what is trained.

    Three times the forward pass, less the gradient of the first layer's input; less again where
    blocks are frozen.

    Args:
        height: see `convolutions`.
        width: see `convolutions`.
        batch_size: frames of a step.
        width_multiplier: see `convolutions`.
        sides: whether the side outputs have a part in the loss.
        frozen_blocks: so many VGG blocks, from the first, are not trained.
        kept: the frozen blocks' features are kept from an earlier step, not computed.
    """
    layers = convolutions(height, width, width_multiplier=width_multiplier, sides=sides)
    return batch_size * sum(_passes(layer, frozen_blocks, kept) * layer.flops for layer in layers)


def _passes(layer: Convolution, frozen_blocks: int, kept: bool) -> int:
    """Counts a training step's passes through a layer: forward, its weights', its input's."""
    if layer.name.startswith("block") and layer.block <= frozen_blocks:
        return 0 if kept else 1
    # Nothing below the first trained layers is trained, so the gradient ends at their weights.
    reads_frozen = layer.name == f"block{frozen_blocks + 1}_conv1" or (
        layer.name.startswith("prep_") and layer.block <= frozen_blocks
    )
    return 2 if reads_frozen else 3
