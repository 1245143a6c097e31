"""Pictures that hold several, as a sequence of frames: animated GIF, WebP and PNG, TIFF pages."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from osvos_tf.errors import InputError
from osvos_tf.media.images import describe_size, open_image, reading, to_rgb
from osvos_tf.media.sequence import Frames, frame_name, no_such_frame
from osvos_tf.media.videos import DEFAULT_FPS

_MOST_PAGES = 100_000


class PageFrames(Frames):
    """The pages of one picture, named by their number: '00000', '00001', ..."""

    def __init__(self, path: Path):
        self.path = path
        with reading(path), open_image(path) as image:
            self.length = min(getattr(image, "n_frames", 1), _MOST_PAGES)
            self.size = image.size[1], image.size[0]
            image.load()  # WebP tells the duration of a page only then
            seconds = image.info.get("duration", 0) / 1000
        self.fps = 1 / seconds if seconds > 0 else DEFAULT_FPS

    @property
    def names(self) -> list[str]:
        return [frame_name(number) for number in range(self.length or 0)]

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        with reading(self.path), open_image(self.path) as image:
            for number, name in enumerate(self.names):
                yield name, self._page(image, number)

    def read(self, name: str) -> np.ndarray:
        if name not in self.names:
            raise no_such_frame(self, name)
        with reading(self.path), open_image(self.path) as image:
            return self._page(image, int(name))

    def check(self) -> None:
        """Does nothing: pages of another size are found as they are read."""

    def _page(self, image: Image.Image, number: int) -> np.ndarray:
        image.seek(number)
        page = to_rgb(image)
        if page.shape[:2] != self.size:
            raise InputError(
                f"Wanted pages of one size in '{self.path}', but page {number + 1} is "
                f"{describe_size(page.shape)} and the first is {describe_size(self.size)}."
            )
        return page
