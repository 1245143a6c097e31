"""The whole journey through the real commands, on a world and for a time that are tiny."""

import csv

import cv2
import pytest

from pipelines import cli, demo


@pytest.mark.slow
def test_every_stage_runs_and_leaves_what_it_should(monkeypatch, tmp_path):
    for name, value in {
        "_TRAIN": 2,
        "_VAL": 1,
        "_FRAMES": 4,
        "_SIZE": (32, 48),
        "_PARENT_UPDATES": 2,
        "_METHODS": {"parent": ["--updates=0"], "one-shot": ["--updates=2"]},
    }.items():
        monkeypatch.setattr(demo, name, value)
    demo.main(cli.parse(demo.FLAGS, [f"--out={tmp_path}"]))
    with open(tmp_path / "evaluation" / "global.csv", newline="", encoding="utf-8") as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["parent", "one-shot"]
    for method in ("parent", "one-shot"):
        (sequence,) = (tmp_path / "results" / method).iterdir()
        assert len(list((sequence / "masks").glob("*.png"))) == 4
        assert (sequence / "overlay.mp4").stat().st_size
    assert cv2.imread(str(tmp_path / "contact_sheet.png")).size
