"""Files of annotation tools, as the tools write them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from osvos_tf.errors import InputError
from osvos_tf.formats import annotations
from osvos_tf.media.masks import read_mask

SIZE = HEIGHT, WIDTH = 12, 20
BOX = np.zeros(SIZE, np.uint8)
BOX[3:9, 5:15] = 1
CORNERS = [[5, 3], [14, 3], [14, 8], [5, 8]]

LABELME = {
    "version": "5.4.1",
    "shapes": [{"label": "dog", "points": CORNERS, "group_id": None, "shape_type": "polygon"}],
    "imagePath": "00000.jpg",
    "imageHeight": HEIGHT,
    "imageWidth": WIDTH,
}
COCO = {
    "images": [{"id": 7, "file_name": "clip/00000.jpg", "height": HEIGHT, "width": WIDTH}],
    "categories": [{"id": 1, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 1, "segmentation": [[5, 3, 14, 3, 14, 8, 5, 8]]}
    ],
}
COCO_RLE = {
    **COCO,
    "annotations": [
        {
            "id": 1,
            "image_id": 7,
            "category_id": 1,
            "segmentation": {"size": list(SIZE), "counts": annotations.coco_counts(BOX)},
        }
    ],
}
COCO_RUNS = {
    **COCO,
    "annotations": [
        {
            "image_id": 7,
            "segmentation": {"size": list(SIZE), "counts": [63] + [6, 6] * 9 + [6, 63]},
        }
    ],
}
CVAT_IMAGES = f"""<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
  <image id="0" name="00000.jpg" width="{WIDTH}" height="{HEIGHT}">
    <polygon label="dog" points="5.00,3.00;14.00,3.00;14.00,8.00;5.00,8.00" z_order="0"/>
  </image>
</annotations>"""
CVAT_MASK = f"""<annotations>
  <image id="0" name="00000.jpg" width="{WIDTH}" height="{HEIGHT}">
    <mask label="dog" rle="0, 60" left="5" top="3" width="10" height="6" z_order="0"/>
  </image>
</annotations>"""
CVAT_TRACK = f"""<annotations><meta><task><original_size><width>{WIDTH}</width>
  <height>{HEIGHT}</height></original_size></task></meta>
  <track id="0" label="dog">
    <polygon frame="0" outside="0" points="5,3;14,3;14,8;5,8"/>
    <polygon frame="4" outside="0" points="1,1;2,1;2,2;1,2"/>
    <polygon frame="5" outside="1" points="5,3;14,3;14,8;5,8"/>
  </track>
</annotations>"""
LABEL_STUDIO_POLYGON = [
    {
        "data": {"image": "/data/00000.jpg"},
        "annotations": [
            {
                "result": [
                    {
                        "type": "polygonlabels",
                        "original_width": WIDTH,
                        "original_height": HEIGHT,
                        "value": {
                            "points": [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in CORNERS],
                            "polygonlabels": ["dog"],
                        },
                    }
                ]
            }
        ],
    }
]
# A mask of 4x3 pixels whose middle two are set, as label-studio-converter packs it.
BRUSH = [0, 0, 0, 48, 57, 27, 254, 19, 0, 159, 255, 9, 128, 0]

FILES = {
    "labelme.json": LABELME,
    "coco.json": COCO,
    "coco_rle.json": COCO_RLE,
    "coco_runs.json": COCO_RUNS,
    "cvat_images.xml": CVAT_IMAGES,
    "cvat_mask.xml": CVAT_MASK,
    "cvat_track.xml": CVAT_TRACK,
    "label_studio.json": LABEL_STUDIO_POLYGON,
}


def write(path, value):
    text = value if isinstance(value, str) else json.dumps(value)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", FILES)
def test_every_tool_shows_the_same_box(tmp_path, name):
    mask = read_mask(write(tmp_path / name, FILES[name]), frame="00000")
    np.testing.assert_array_equal(mask, BOX)


def test_a_brush_stroke_of_label_studio(tmp_path):
    result = {
        "type": "brushlabels", "original_width": 4, "original_height": 3,
        "value": {"format": "rle", "rle": BRUSH, "brushlabels": ["dog"]},
    }  # fmt: skip
    path = write(tmp_path / "brush.json", [{"annotations": [{"result": [result]}]}])
    np.testing.assert_array_equal(read_mask(path), [[0] * 4, [0, 1, 1, 0], [0] * 4])
    with pytest.raises(InputError, match="ends early"):
        result["value"]["rle"] = BRUSH[:9]
        read_mask(write(path, [{"annotations": [{"result": [result]}]}]))


@given(arrays.arrays(bool, st.tuples(st.integers(1, 30), st.integers(1, 30))))
def test_coco_runs_come_back(mask):
    np.testing.assert_array_equal(
        annotations.coco_mask(annotations.coco_counts(mask), mask.shape), mask
    )


def test_coco_runs_are_those_of_pycocotools():
    mask = np.zeros((5, 6), bool)
    mask[1:4, 2:5] = True
    assert annotations.coco_counts(mask) == ";320004"


def test_the_frame_picks_its_picture(tmp_path):
    path = write(tmp_path / "track.xml", CVAT_TRACK)
    small = read_mask(path, frame="00004")
    assert small.sum() == 4 and small[1:3, 1:3].all()
    with pytest.raises(InputError, match=r"annotates 2 pictures, '0', '4'.*frame '00003'"):
        read_mask(path, frame="00003")


def test_objects_are_ids(tmp_path):
    second = {**LABELME["shapes"][0], "label": "cat", "points": [[0, 0], [2, 0], [2, 1], [0, 1]]}
    path = write(tmp_path / "two.json", {**LABELME, "shapes": [*LABELME["shapes"], second]})
    np.testing.assert_array_equal(read_mask(path, 1), BOX)
    assert read_mask(path, 2)[:2, :3].all() and read_mask(path, 2).sum() == 6
    assert read_mask(path).sum() == BOX.sum() + 6
    with pytest.raises(InputError, match="ids there are 1, 2"):
        read_mask(path, 3)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "{", "it is no JSON"),
        ("a.json", "[]", "it is not a file of labelme"),
        ("a.json", '{"a": 1}', "it is not a file of labelme"),
        ("a.json", {**LABELME, "shapes": []}, "no polygon and no mask"),
        ("a.json", {**LABELME, "imageHeight": 10**9}, "pixels large"),
        ("a.json", {**LABELME, "imageHeight": -5}, "pixels large"),
        ("a.json", {k: v for k, v in LABELME.items() if k != "imageWidth"}, "it is damaged"),
        ("a.json", {**COCO, "annotations": [3]}, "it is damaged"),
        ("a.json", "[" * 100_000, "it is no JSON"),
        ("a.xml", "<annotations>", "it is no XML"),
        ("a.xml", "<dataset/>", "its root is <dataset>"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "declares entities"),
        ("a.xml", CVAT_MASK.replace("0, 60", "0, 61"), "cover 61 pixels of 60"),
        ("a.xml", CVAT_MASK.replace('"10"', '"1000000"'), "cover 60 pixels"),
        ("a.xml", CVAT_IMAGES.replace("14.00", "nan"), "no pairs of numbers"),
        ("a.xml", CVAT_IMAGES.replace("14.00", "1e30"), "far outside"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, name, content, words):
    with pytest.raises(InputError, match=words):
        read_mask(write(tmp_path / name, content))
