"""The stages of training as values. A new experiment is a new value, not a new script.

An *update* is one change of the weights. It is computed from `batch_size * accumulation` images,
`batch_size` of them side by side in one forward pass.
"""

import dataclasses
import math
import sys
from collections.abc import Sequence

from osvos_tf.data.augmentation import Augmentation


@dataclasses.dataclass(frozen=True)
class Stage:
    """All numbers of one stage of training."""

    name: str
    updates: int
    optimizer: str  # "momentum": SGD with momentum 0.9, Caffe's form; or "adam"
    rate: float  # base learning rate
    first_update: int = 0  # updates that earlier stages of the same recipe have made
    drops: tuple[int, ...] = ()  # updates of this stage after which the rate is divided by ten
    warmup: int = 0  # updates over which the rate rises from zero
    cooldown: int = 0  # updates over which the rate falls to zero, by half a cosine, at the end
    height: int | None = None  # of a frame in the views, in pixels; None: frames as they are
    views: int | None = None  # augmented views made once and used again; None: a new one each time
    frozen: int = 0  # blocks of the trunk that stay as they are; needs `views`
    until_learned: bool = False  # end once the loss on held-out views stops falling
    batch_size: int = 1
    accumulation: int = 1  # forward passes averaged into one update
    normalise: str = "sum"  # of the loss: "sum" over pixels or "balanced"
    side_weight: float = 0.0  # of each side output's loss; the fused output's weighs 1
    weight_decay: float = 0.0  # on kernels, never on biases
    # First prefix that fits the layer's name -> factor on its kernel's rate.
    rate_factors: tuple[tuple[str, float], ...] = ()
    bias_factor: float = 1.0  # on top, for biases
    augmentation: Augmentation = Augmentation()  # noqa: RUF009 (frozen, too)

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that no training can follow."""
        if self.optimizer not in ("momentum", "adam"):
            raise ValueError(f"optimizer must be 'momentum' or 'adam'. Received: {self.optimizer}.")
        if self.optimizer == "adam" and (self.rate_factors or self.bias_factor != 1):
            raise ValueError(
                "rate_factors scale gradients, which Adam divides out again: use 'momentum'."
            )
        if min(self.batch_size, self.accumulation) < 1 or self.updates < 0:
            raise ValueError(f"updates, batch_size and accumulation must count. Received: {self}.")
        if self.frozen and self.views is None:
            raise ValueError("frozen blocks are computed once for all `views`: give their number.")

    @property
    def last_update(self) -> int:
        """Updates of the whole recipe that are done when this stage ends."""
        return self.first_update + self.updates

    @property
    def images(self) -> int:
        """Images of one update."""
        return self.batch_size * self.accumulation

    def rate_at(self, update: int, end: int | None = None) -> float:
        """Returns the learning rate of an update, counted from 0 over the whole recipe.

        Args:
            update: which one.
            end: updates of the whole recipe that will be done when this stage ends, where that is
                sooner than `last_update`.
        """
        done = update - self.first_update
        left = (self.last_update if end is None else end) - update
        rate = self.rate * 0.1 ** sum(done >= drop for drop in self.drops)
        if done < self.warmup:
            rate *= (done + 1) / self.warmup
        if left < self.cooldown:
            rate *= 0.5 * (1 - math.cos(math.pi * left / self.cooldown))
        return rate

    def share(self, replicas: int) -> tuple[int, int]:
        """Returns (batch_size, accumulation) of each of several replicas that share an update.

        Together they see as many images in an update as one would, so the rate stays.

        Raises:
            ValueError: the images of an update cannot be shared equally.
        """
        by_passes = math.gcd(self.accumulation, replicas)
        by_images = replicas // by_passes
        if self.batch_size % by_images:
            raise ValueError(
                f"An update of stage {self.name!r} takes {self.accumulation} x {self.batch_size} "
                f"images, which {replicas} replicas cannot share equally."
            )
        return self.batch_size // by_images, self.accumulation // by_passes

    def rate_factor(self, layer: str, weight: str) -> float:
        """Returns the factor on the rate of `weight` ("kernel" or "bias") of the named layer."""
        factor = next((f for prefix, f in self.rate_factors if layer.startswith(prefix)), 1.0)
        return factor * (self.bias_factor if weight == "bias" else 1.0)


def adapting(stage: Stage) -> Stage:
    """Returns how one-shot training goes on while a video is segmented: two views, a low rate."""
    return dataclasses.replace(
        stage,
        name="adapt",
        updates=sys.maxsize,
        rate=stage.rate / 5,
        batch_size=2,
        accumulation=1,
        drops=(),
        warmup=0,
        cooldown=0,
        views=None,
        frozen=0,
        until_learned=False,
    )


def with_updates(stages: Sequence[Stage], updates: int) -> tuple[Stage, ...]:
    """Returns the recipe shortened or stretched to a total number of updates.

    Every stage keeps its share, and its drops, warm-up and cool-down keep their place in it.
    """
    total = sum(stage.updates for stage in stages)
    scaled: list[Stage] = []
    first = 0
    for stage in stages:
        last = round(stage.last_update * updates / total)
        share = (last - first) / max(1, stage.updates)
        scaled.append(
            dataclasses.replace(
                stage,
                first_update=first,
                updates=last - first,
                drops=tuple(round(drop * share) for drop in stage.drops),
                warmup=round(stage.warmup * min(1.0, share)),
                cooldown=round(stage.cooldown * share),
            )
        )
        first = last
    return tuple(scaled)


# What all of the authors' stages share: SGD with momentum 0.9 at 1e-8 on the summed loss, decay
# 0.0002 on weights, and the layer-wise factors of the Caffe prototxt files (lr_mult, decay_mult).
_AUTHORS = Stage(
    name="authors",
    updates=0,
    optimizer="momentum",
    rate=1e-8,
    weight_decay=0.0002,
    rate_factors=(("score_", 0.1), ("fused", 0.01)),
    bias_factor=2.0,
    # Flip, and the whole frame at one of three sizes (TensorFlow and Caffe versions).
    augmentation=Augmentation(flip=True, scales=(0.5, 0.8, 1.0)),
)

# Parent training of the paper (Caffe version, src/parent/solvers): 50,000 updates of 10 images;
# in each phase the rate drops to a tenth after 10,000 updates and starts again.
PARENT_PAPER = tuple(
    dataclasses.replace(
        _AUTHORS,
        name=f"parent{number}",
        first_update=first,
        updates=updates,
        drops=(10_000,),
        accumulation=10,
        side_weight=side_weight,
    )
    for number, first, updates, side_weight in (
        (1, 0, 15_000, 1.0),
        (2, 15_000, 15_000, 0.5),
        (3, 30_000, 20_000, 0.0),
    )
)

# One-shot training of the paper (Caffe version, demo.m and solver_online.prototxt).
ONE_SHOT_PAPER = dataclasses.replace(_AUTHORS, name="one_shot", updates=500)

# Parent training when there are no ImageNet weights: He initialisation, a loss whose scale does
# not depend on the frame, Adam, stronger augmentation. Our own; numbers by measurement on
# DAVIS-2016 train, see docs/measurements.md.
_SCRATCH = Stage(
    name="parent",
    updates=3_500,
    optimizer="adam",
    rate=4e-4,
    warmup=200,
    height=160,
    batch_size=8,
    normalise="balanced",
    side_weight=0.25,
    augmentation=Augmentation(
        flip=True, zoom=(0.8, 2.0), shift=0.25, rotation=20.0, gain=0.25, paste=0.5
    ),
)
# Small views first: a view costs less than half there, and much is learned on them.
PARENT_SCRATCH = (
    _SCRATCH,
    dataclasses.replace(
        _SCRATCH,
        name="parent_large",
        first_update=3_500,
        updates=4_000,
        rate=3e-4,
        warmup=0,
        cooldown=4_000,
        height=240,
        batch_size=4,
        augmentation=dataclasses.replace(_SCRATCH.augmentation, zoom=(0.8, 1.6), light=2.0),
    ),
)

# Parent training from ImageNet's VGG16 without a GPU: Adam and the balanced loss, as above, on
# views 240 pixels high, at a rate that leaves what ImageNet taught in place.
PARENT_IMAGENET = (
    dataclasses.replace(
        _SCRATCH,
        updates=4_000,
        rate=8e-5,
        warmup=100,
        cooldown=3_900,
        height=240,
        batch_size=4,
        augmentation=Augmentation(
            flip=True, zoom=(0.75, 1.8), shift=0.25, rotation=20.0, gain=0.3, light=1.5, paste=0.5
        ),
    ),
)

# Contour training (paper, section 3.3): no solver of it was released. What is left of it in the
# Caffe version's deploy_cont.prototxt, the layers' rate factors, is that of the parent.
CONTOUR_PAPER = tuple(
    dataclasses.replace(stage, name=stage.name.replace("parent", "contour"))
    for stage in PARENT_PAPER
)

# Contour training when there are no ImageNet weights; numbers by measurement on BSDS500.
CONTOUR_SCRATCH = (
    Stage(
        name="contour",
        updates=9_000,
        optimizer="adam",
        rate=4e-4,
        warmup=200,
        cooldown=8_800,
        height=320,
        batch_size=4,
        normalise="balanced",
        side_weight=0.5,
        augmentation=Augmentation(flip=True, zoom=(0.6, 1.7), shift=0.2, rotation=30.0, gain=0.35),
    ),
)

# Contour training from ImageNet's VGG16 without a GPU, as PARENT_IMAGENET is.
CONTOUR_IMAGENET = (
    dataclasses.replace(
        CONTOUR_SCRATCH[0],
        updates=2_000,
        rate=1e-4,
        warmup=100,
        cooldown=1_900,
    ),
)

# One-shot training from a parent of the scratch recipe: the same loss and optimiser, milder
# augmentation. Views zoom as objects come near: from (0.8, 1.25) to this, J of drift-straight rose
# from 0.41 to 0.60. Borders of light fall across them: with these, J of car-shadow rose from 0.76
# to 0.86.
ONE_SHOT_SCRATCH = Stage(
    name="one_shot",
    updates=150,
    optimizer="adam",
    rate=2e-4,
    cooldown=50,
    batch_size=2,
    normalise="balanced",
    until_learned=True,
    augmentation=Augmentation(
        flip=True, zoom=(0.75, 1.6), shift=0.15, rotation=15.0, gain=0.3, light=2.0
    ),
)

# One-shot training from a parent of the imagenet recipe: fewer updates, at a quarter of the rate.
ONE_SHOT_IMAGENET = dataclasses.replace(ONE_SHOT_SCRATCH, updates=100, rate=5e-5, cooldown=33)

# The paper's way for a parent of the scratch recipe: 500 updates, one whole frame each, all
# outputs trained. It is what that recipe is measured against.
ONE_SHOT_PLAIN = dataclasses.replace(
    ONE_SHOT_SCRATCH,
    updates=500,
    batch_size=1,
    side_weight=0.25,
    until_learned=False,
)

PARENTS = {"imagenet": PARENT_IMAGENET, "paper": PARENT_PAPER, "scratch": PARENT_SCRATCH}
CONTOURS = {"imagenet": CONTOUR_IMAGENET, "paper": CONTOUR_PAPER, "scratch": CONTOUR_SCRATCH}
ONE_SHOTS = {
    "imagenet": ONE_SHOT_IMAGENET,
    "paper": ONE_SHOT_PAPER,
    "scratch": ONE_SHOT_SCRATCH,
    "plain": ONE_SHOT_PLAIN,
}
