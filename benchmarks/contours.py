"""Scores Canny and a contour network on BSDS500: ODS and OIS, by the same code.

    python -m benchmarks.contours --bsds=../shared/data/BSDS500
    python -m benchmarks.contours --bsds=BSDS500 --contour=contour.keras --json=rows.json

A detector's 100 images of val take about a minute on two cores. Canny is given its best: colour
images, and a smoothing that is chosen on the very images that it is scored on.
"""

import concurrent.futures
import multiprocessing
import os
import time

import cv2
import numpy as np
from absl import app, flags

import osvos_tf
from benchmarks import timing
from osvos_tf.data import bsds
from osvos_tf.evaluation import contour_metrics

_BSDS = flags.DEFINE_string("bsds", None, "BSDS500 root.", required=True)
_SPLIT = flags.DEFINE_string("split", "val", "Name of a folder in images: train, val or test.")
_CONTOUR = flags.DEFINE_string("contour", None, "Contour network (.keras) to score, too.")
_IMAGES = flags.DEFINE_integer("images", None, "Score only that many images, spread evenly.")
flags.adopt_module_key_flags(timing)

CANNY_SIGMAS = (1.4, 2.0, 2.8, 4.0)  # of the Gaussian before, in pixels
CANNY_HIGHS = np.geomspace(1, 60, len(contour_metrics.THRESHOLDS))  # grey levels per pixel


def main(argv):
    """Prints one row a detector."""
    del argv
    frames = bsds.read_split(_BSDS.value, _SPLIT.value).frames
    if _IMAGES.value:
        frames = frames[:: max(1, len(frames) // _IMAGES.value)][: _IMAGES.value]
    settings = {"split": _SPLIT.value, "images": len(frames), "cores": os.cpu_count()}
    detectors = {
        f"Canny, sigma {sigma}": lambda image, sigma=sigma: canny_strength(image, sigma)
        for sigma in CANNY_SIGMAS
    }
    if _CONTOUR.value:
        detectors[_CONTOUR.value] = network(_CONTOUR.value)
    print(f"{'':24}   ODS  precision  recall  threshold     OIS")
    rows = []
    with concurrent.futures.ProcessPoolExecutor(
        mp_context=multiprocessing.get_context("spawn"),
        initializer=cv2.setNumThreads,  # the processes share the cores, not OpenCV's threads
        initargs=(1,),
    ) as pool:
        for what, detector in detectors.items():
            start = time.perf_counter()
            scores = score(detector, frames, pool)
            rows.append(_row(what, time.perf_counter() - start, scores, settings))
            point = scores.ODS
            print(
                f"{what[-24:]:24}{point.F:6.3f}{point.precision:11.3f}{point.recall:8.3f}"
                f"{scores.threshold:11.3f}{scores.OIS.F:8.3f}",
                flush=True,
            )
    timing.write(rows)


def score(detector, frames, pool):
    """Computes a detector's `contour_metrics.Scores`.

    Args:
        detector: uint8 BGR [height, width, 3] -> lines' strength, float32 [height, width].
        frames: images and ground truth, see `bsds.read_split`.
        pool: the executor that counts while the detector continues.
    """
    counts = [
        pool.submit(count, detector(cv2.imread(str(frame.image))), frame.mask) for frame in frames
    ]
    return contour_metrics.ods_ois([future.result() for future in counts])


def count(strength, path):
    """Counts matched pixels of one image; runs in a separate process."""
    return contour_metrics.image_counts(strength, bsds.read_boundaries(path))


def canny_strength(image, sigma):
    """Returns the highest threshold at which Canny marks each pixel, as a rank in 0..1.

    Args:
        image: uint8 BGR [height, width, 3].
        sigma: of the Gaussian that smooths the image before, in pixels.

    Returns:
        float32 [height, width]: `THRESHOLDS[i]` where `CANNY_HIGHS[i]` is the highest, 0 where
        Canny marks nothing. The low threshold is half the high one.
    """
    smooth = cv2.GaussianBlur(image, None, sigma)
    strength = np.zeros(image.shape[:2], np.float32)
    for threshold, high in zip(contour_metrics.THRESHOLDS, CANNY_HIGHS, strict=True):
        high = 8 * high  # Sobel's answer to a slope of 1
        strength[cv2.Canny(smooth, high / 2, high, L2gradient=True) > 0] = threshold
    return strength


def network(path):
    """Returns the detector of a stored contour network: probabilities, thinned to lines."""
    model = osvos_tf.load_model(path)
    from osvos_tf.network.model import build_predictor

    predictor = build_predictor(model)

    def strength(image):
        images = np.ascontiguousarray(image[None, ..., ::-1])
        return contour_metrics.thin(predictor.predict_on_batch(images)[0, ..., 0])

    return strength


def _row(what, seconds, scores, settings):
    return timing.row(
        what,
        seconds,
        ODS=scores.ODS.F,
        precision=scores.ODS.precision,
        recall=scores.ODS.recall,
        threshold=scores.threshold,
        OIS=scores.OIS.F,
        **settings,
    )


if __name__ == "__main__":
    app.run(main)
