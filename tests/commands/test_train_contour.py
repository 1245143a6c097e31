"""The command `train_contour`: annotated pictures in, a contour network out."""

import json
import shutil

import cv2
import pytest

import osvos_tf
from osvos_tf.commands import cli, train_contour
from osvos_tf.data import tfrecord, tfrecord_writer
from osvos_tf.errors import InputError
from osvos_tf.network import model
from support.world import draw_bsds, paint

TINY = {
    "recipe": "scratch",
    "weights": "random",
    "width_multiplier": 0.0625,
    "height": 48,
    "precision": "float32",
    "updates": 2,
}


def run(**flags):
    arguments = [f"--{name}={value}" for name, value in {**TINY, **flags}.items()]
    train_contour.main(cli.parse(train_contour.FLAGS, arguments))


@pytest.fixture
def bsds(tmp_path):
    return draw_bsds(tmp_path / "bsds")


def test_leaves_a_contour_network(bsds, tmp_path):
    workdir = tmp_path / "run"
    run(bsds=bsds, workdir=workdir)
    assert {path.name for path in workdir.iterdir()} == {
        "contour.keras", "records", "checkpoints", "summaries", "flags.json"
    }  # fmt: skip
    network = osvos_tf.load_model(workdir / "contour.keras")
    assert network.name == "contour"
    # Trained on square views, it looks at frames as they come.
    assert model.working_height(network) is None
    assert tfrecord.read_manifest(workdir / "records")["sequences"] == {"train": 2}
    settings = json.loads((workdir / "flags.json").read_text())
    assert settings["bsds"] == str(bsds) and settings["precision"] == "float32"


@pytest.mark.slow
def test_learns_contours_and_not_surfaces(bsds, tmp_path):
    run(bsds=bsds, workdir=tmp_path / "run", updates=150)
    network = osvos_tf.load_model(tmp_path / "run" / "contour.keras")
    frame = cv2.imread(str(bsds / "images/train/100.jpg"))  # an edge down the middle, at 32
    contours = model.build_predictor(network).predict(frame[None], verbose=0)[0, ..., 0]
    columns = contours.mean(axis=0)
    assert abs(int(columns.argmax()) - 32) <= 2
    assert columns.max() > 2 * max(columns[8:20].max(), columns[44:56].max())


def test_label_maps_with_folders_in_folders(tmp_path):
    """A DAVIS tree is a folder of label maps, too."""
    run(label_maps=paint(tmp_path / "DAVIS"), workdir=tmp_path / "run")
    manifest = tfrecord.read_manifest(tmp_path / "run" / "records")
    assert manifest["sequences"] == {"DAVIS": 12}
    assert (tmp_path / "run" / "contour.keras").is_file()


def test_goes_on_with_the_same_records_only(bsds, tmp_path):
    workdir = tmp_path / "run"
    run(bsds=bsds, workdir=workdir)
    before = {path: path.stat().st_mtime_ns for path in (workdir / "records").iterdir()}
    run(bsds=bsds, workdir=workdir)
    assert before == {path: path.stat().st_mtime_ns for path in (workdir / "records").iterdir()}
    other = draw_bsds(tmp_path / "other")
    with pytest.raises(InputError, match="other flags: --bsds="):
        run(bsds=other, workdir=workdir)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({}, ["--bsds and --label_maps"]),
        ({"bsds": "{bsds}", "label_maps": "{bsds}"}, ["--bsds and --label_maps"]),
        ({"bsds": "{bsds}", "split": "dev"}, ["images/dev", "the split"]),
        ({"bsds": "nowhere"}, ["nowhere", "its folder"]),
        ({"label_maps": "{bsds}"}, ["no two with one name"]),
        ({"bsds": "{bsds}", "weights": "imagenet"}, ["--width_multiplier=1"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_mistakes_are_explained(flags, words, bsds, tmp_path):
    filled = {name: value.format(bsds=bsds) for name, value in flags.items()}
    with pytest.raises(InputError) as caught:
        run(workdir=tmp_path / "run", **filled)
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_damaged_ground_truth_leaves_nothing_to_go_on_with(bsds, tmp_path):
    (bsds / "groundTruth/train/21.mat").write_bytes(b"MATLAB")
    with pytest.raises(InputError, match=r"21\.mat"):
        run(bsds=bsds, workdir=tmp_path / "run")
    assert not list((tmp_path / "run" / "records").iterdir())
    draw_bsds(bsds)
    run(bsds=bsds, workdir=tmp_path / "run", updates=1)
    assert (tmp_path / "run" / "contour.keras").is_file()


def test_records_of_others_in_the_work_folder_stay(bsds, fake_records, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(fake_records, workdir / "records")
    before = {path: path.read_bytes() for path in (workdir / "records").iterdir()}
    with pytest.raises(InputError, match=r"run holds records and no flags\.json"):
        run(bsds=bsds, workdir=workdir)
    assert before == {path: path.read_bytes() for path in (workdir / "records").iterdir()}


def test_killed_while_records_are_made_it_starts_over(bsds, tmp_path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(tfrecord_writer, "write_json", interrupt)
        run(bsds=bsds, workdir=tmp_path / "run", updates=1)
    run(bsds=bsds, workdir=tmp_path / "run")
    assert (tmp_path / "run" / "contour.keras").is_file()


@pytest.mark.parametrize("flag", ["bsds", "label_maps", "images"])
def test_a_source_where_it_would_write_is_refused(flag, bsds, tmp_path):
    """`records/` is what the command makes; its content goes whenever they are made anew."""
    workdir = tmp_path / "run"
    shutil.move(bsds, workdir / "records" / "mine")
    source = {flag: workdir / "records" / "mine"}
    if flag == "images":
        source = {"label_maps": paint(tmp_path / "DAVIS") / "Annotations", flag: bsds.parent}
        source[flag] = workdir / "records" / "mine" / "images"
        shutil.copytree(tmp_path / "DAVIS" / "JPEGImages", source[flag], dirs_exist_ok=True)
    if flag == "label_maps":
        source = {flag: paint(workdir / "records" / "DAVIS")}
    before = sorted(workdir.rglob("*"))
    with pytest.raises(InputError, match=f"--{flag}=.* lies where this run would write"):
        run(workdir=workdir, **source)
    assert sorted(workdir.rglob("*")) == before
