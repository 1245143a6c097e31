"""Videos of many containers, codecs and pixel formats, made by PyAV, decoded to known pixels."""

import itertools
import os
import sys
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from osvos_tf.errors import InputError
from osvos_tf.media.frames import open_frames
from osvos_tf.media.video_writer import H264, PRORES_4444, VP9_ALPHA, write_video

HEIGHT, WIDTH, COUNT = 48, 64, 12
# What a colour bar shows at 75 %, in RGB.
BARS = [
    (191, 191, 191), (191, 191, 0), (0, 191, 191), (0, 191, 0), (191, 0, 191), (191, 0, 0),
    (0, 0, 191), (16, 16, 16),
]  # fmt: skip


def colour_bars(height=HEIGHT, width=WIDTH):
    """Vertical bars; the middle of each is far from the next."""
    bars = np.repeat(np.array(BARS, np.uint8), width // len(BARS), axis=0)
    return np.broadcast_to(bars, (height, *bars.shape)).copy()


def numbered(number, height=HEIGHT, width=WIDTH):
    """Bars, and below them the frame's number as grey."""
    frame = colour_bars(height, width)
    frame[height // 2 :] = 20 * number
    return frame


def number_of(frame):
    return round(float(frame[-6:].mean()) / 20)


def encode(
    path, codec, pixels="yuv420p", *, count=COUNT, frames=None, options=None, set_up=None, rate=12
):
    """Writes numbered frames; `set_up` is called with the stream before the first is encoded."""
    frames = [numbered(number % 12) for number in range(count)] if frames is None else frames
    height, width = frames[0].shape[:2]
    with av.open(os.fspath(path), "w") as output:
        stream = output.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        if set_up is not None:
            set_up(stream)
        for number, array in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(array, format="rgb24")
            picture = picture.reformat(format=pixels, dst_colorspace="itu601")
            picture.pts, picture.time_base = number, 1 / Fraction(rate)
            output.mux(stream.encode(picture))
        output.mux(stream.encode())
    return path


def require_bars(frame, tolerance):
    centres = frame[HEIGHT // 4, WIDTH // 16 :: WIDTH // 8].astype(int)
    assert np.abs(centres - BARS).max() <= tolerance, centres.tolist()


# (file, codec, pixel format, options, tolerance of a colour in 0..255)
MATRIX = [
    ("h264.mp4", "libx264", "yuv420p", {}, 12),
    ("h264.mov", "libx264", "yuv422p", {}, 12),
    ("h264.mkv", "libx264", "yuv444p", {}, 8),
    ("h264.ts", "libx264", "yuv420p", {}, 12),
    ("h264_10.mp4", "libx264", "yuv420p10le", {}, 12),
    ("b_frames.mp4", "libx264", "yuv420p", {"bf": "3", "g": "6"}, 12),
    ("h265.mp4", "libx265", "yuv420p", {"x265-params": "log-level=none"}, 12),
    ("h265_10.mkv", "libx265", "yuv420p10le", {"x265-params": "log-level=none"}, 12),
    ("av1.mp4", "libsvtav1", "yuv420p", {"preset": "12"}, 12),
    ("vp9.webm", "libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}, 12),
    ("vp8.webm", "libvpx", "yuv420p", {"deadline": "realtime", "b": "1M"}, 14),
    ("prores.mov", "prores_ks", "yuv422p10le", {}, 6),
    ("prores4444.mov", "prores_ks", "yuva444p10le", {}, 6),
    ("ffv1.mkv", "ffv1", "yuv444p", {}, 3),
    ("ffv1_rgb.mkv", "ffv1", "bgr0", {}, 0),
    ("mjpeg.avi", "mjpeg", "yuvj444p", {"q": "2"}, 10),
    ("mpeg4.avi", "mpeg4", "yuv420p", {"b": "4M"}, 14),
    ("mpeg2.mpg", "mpeg2video", "yuv420p", {"b": "4M"}, 14),
    ("mpeg2.ts", "mpeg2video", "yuv422p", {"b": "4M"}, 14),
    ("wmv.wmv", "wmv2", "yuv420p", {"b": "4M"}, 14),
    ("flash.flv", "flv", "yuv420p", {"b": "4M"}, 14),
    ("rle.mov", "qtrle", "rgb24", {}, 0),
    ("raw.avi", "rawvideo", "bgr24", {}, 0),
    ("png.mov", "png", "rgb24", {}, 0),
]


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "options", "tolerance"), MATRIX, ids=[row[0] for row in MATRIX]
)
def test_matrix(tmp_path, name, codec, pixels, options, tolerance, capfd):
    rate = 25 if codec == "mpeg2video" else 12
    encode(tmp_path / name, codec, pixels, options=options, rate=rate)
    capfd.readouterr()  # encoders may chat
    frames = open_frames(tmp_path / name)
    assert frames.size == (HEIGHT, WIDTH)
    assert frames.fps == pytest.approx(rate, rel=0.02)
    shown = dict(frames)
    assert list(shown) == [f"{number:05d}" for number in range(COUNT)] == frames.names
    for number, frame in enumerate(shown.values()):
        require_bars(frame, tolerance)
        assert number_of(frame) == number
    for key in (7, 0, 11):  # exact, in any order
        np.testing.assert_array_equal(frames[key], shown[f"{key:05d}"])
    assert frames.damage() is None
    assert capfd.readouterr().err == ""


def interlaced(stream):
    stream.codec_context.flags |= 1 << 18 | 1 << 29  # interlaced DCT and motion estimation


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("h264.mp4", "libx264", {"x264-params": "tff=1"}),
        ("mpeg2.mpg", "mpeg2video", {"b": "4M"}),
        ("prores.mov", "prores_ks", {}),
    ],
)
def test_interlaced_video_is_woven_without_combs(tmp_path, name, codec, options):
    """A bar moves by 8 pixels a frame, 4 a field: lines of one picture do not lie side by side."""
    frames = []
    for number in range(8):
        frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for field in (0, 1):
            left = 4 + 4 * (2 * number + field)
            frame[field::2, left : left + 12] = 220
        frames.append(frame)
    path = tmp_path / name

    pixels = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
    with av.open(os.fspath(path), "w") as output:
        stream = output.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        interlaced(stream)
        graph = av.filter.Graph()
        source = graph.add_buffer(
            width=WIDTH, height=HEIGHT, format="rgb24", time_base=Fraction(1, 25)
        )
        steps = [
            source, graph.add("format", pixels), graph.add("setfield", "tff"),
            graph.add("buffersink"),
        ]  # fmt: skip
        for one, following in itertools.pairwise(steps):
            one.link_to(following)
        graph.configure()
        for number, array in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(array, format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 25)
            graph.push(picture)
            output.mux(stream.encode(graph.pull()))
        output.mux(stream.encode())
    video = open_frames(path)
    shown = [frame for _, frame in video]
    assert len(shown) == len(frames) == len(video)
    for frame in shown[1:-1]:
        grey = frame[..., 1].astype(int)
        combs = np.abs(grey[1:-1] - (grey[:-2] + grey[2:]) / 2).mean()
        assert grey.max() > 180 and combs < 8, combs
    combed = np.abs(frames[3][1:-1, :, 0].astype(int) - frames[3][2:, :, 0]).mean()
    assert combed > 20  # what the file holds
    np.testing.assert_array_equal(video[4], shown[4])


@pytest.mark.parametrize(("degrees", "corner"), [(0, 0), (90, 1), (180, 2), (270, 3)])
def test_display_matrix(tmp_path, degrees, corner):
    """The bright corner moves clockwise as the picture is turned clockwise."""
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    frame[:16, :16] = 250
    path = encode(
        tmp_path / "clip.mp4",
        "libx264",
        frames=[frame] * 2,
        set_up=lambda stream: stream.set_display_rotation(-degrees),
    )
    (_, shown), _ = open_frames(path)
    assert shown.shape[:2] == ((HEIGHT, WIDTH) if degrees % 180 == 0 else (WIDTH, HEIGHT))
    corners = [shown[4, 4], shown[4, -4], shown[-4, -4], shown[-4, 4]]
    assert int(np.argmax([pixel.mean() for pixel in corners])) == corner


def test_square_pixels(tmp_path):
    def set_up(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)

    frames = open_frames(encode(tmp_path / "wide.mp4", "libx264", set_up=set_up))
    assert frames.size == (HEIGHT, WIDTH * 3 // 2)
    assert frames[3].shape == (HEIGHT, WIDTH * 3 // 2, 3) and number_of(frames[3]) == 3


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_hdr_is_mapped_to_the_range_of_screens(tmp_path, transfer):
    """Grey stays grey, brighter stays brighter, and white does not come out dim."""
    path = tmp_path / "hdr.mkv"
    levels = np.repeat(np.linspace(0, 65535, 8).astype(np.uint16), WIDTH // 8)
    grey = np.broadcast_to(levels, (HEIGHT, WIDTH)).copy()
    parameters = f"log-level=none:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
    with av.open(os.fspath(path), "w") as output:
        stream = output.add_stream("libx265", rate=12, options={"x265-params": parameters})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p10le"
        for number in range(2):
            picture = av.VideoFrame.from_ndarray(grey, format="gray16le")
            picture = picture.reformat(format="yuv420p10le")
            picture.pts, picture.time_base = number, Fraction(1, 12)
            output.mux(stream.encode(picture))
        output.mux(stream.encode())
    _, (_, shown) = open_frames(path)
    steps = shown[HEIGHT // 2, 4::8].astype(int)
    assert np.ptp(steps, axis=1).max() <= 6
    assert (np.diff(steps[:, 0]) > 5).all() and steps[0, 0] < 12 and steps[-1, 0] > 215


def test_bt709_and_full_range_are_taken_as_marked(tmp_path):
    def set_up(stream):
        stream.codec_context.colorspace = 1
        stream.codec_context.color_range = 2

    path = tmp_path / "full.mp4"
    with av.open(os.fspath(path), "w") as output:
        stream = output.add_stream("libx264", rate=12, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv444p"
        set_up(stream)
        picture = av.VideoFrame.from_ndarray(colour_bars(), format="rgb24")
        picture = picture.reformat(format="yuv444p", dst_colorspace="itu709", dst_color_range=2)
        output.mux(stream.encode(picture))
        output.mux(stream.encode())
    require_bars(open_frames(path)[0], 6)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["take:1.mp4", "frame%03d.mp4", "höhle 木.mp4", "-i.mp4"])
def test_names(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with write_video(name, (HEIGHT, WIDTH), 12) as writer:
        writer.write(numbered(3))
    assert number_of(open_frames(name)[0]) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="other systems want names to be Unicode")
def test_a_name_that_is_not_utf8(tmp_path):
    path = os.path.join(tmp_path, os.fsdecode(b"caf\xe9.mp4"))
    with write_video(path, (HEIGHT, WIDTH), 12) as writer:
        writer.write(numbered(3))
    assert number_of(open_frames(path)[0]) == 3


# --- damage ---------------------------------------------------------------------------------------


def test_a_video_that_is_cut_off_says_both_numbers(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (COUNT, HEIGHT, WIDTH, 3), np.uint8)
    path = tmp_path / "clip.mp4"
    with write_video(path, (HEIGHT, WIDTH), 12) as writer:  # its index comes first
        for frame in noise:
            writer.write(frame)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    frames = open_frames(path)
    assert frames.damage() is None  # nothing is known before it was read
    shown = list(frames)
    assert 3 <= len(shown) < COUNT
    assert f"{len(shown)} of its {COUNT} frames" in frames.damage()
    assert "mov, h264" in frames.damage()


@pytest.mark.parametrize("name", ["clip.mkv", "clip.avi"])
def test_other_containers_that_are_cut_off(tmp_path, name):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(40)]
    path = encode(tmp_path / name, "mpeg4", frames=noise, options={"b": "4M"})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    frames = open_frames(path)
    shown = len(list(frames))
    assert 10 < shown < 30 and f"{shown} of its 40 frames" in frames.damage()


def test_broken_frames_are_told(tmp_path):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(40)]
    path = encode(tmp_path / "clip.mp4", "libx264", frames=noise, options={"g": "5"})
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20_000] = b"\xff" * 20_000
    path.write_bytes(content)
    frames = open_frames(path)
    assert len(list(frames)) > 20
    assert "is damaged" in frames.damage()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi", "clip.ts", "clip.webm"])
def test_no_damage_crashes_or_passes_unnoticed(tmp_path, name):
    """Bits flip, the end is missing: an InputError, a remark, or all the frames there are.

    A bit of an index may say truthfully that there are fewer. Matroska says only how long it plays,
    so its last frame is not missed; transport streams and such say nothing.
    """
    codec = (
        "libvpx-vp9" if name.endswith("webm") else "mpeg4" if name.endswith("avi") else "libx264"
    )
    path = encode(tmp_path / name, codec, options={"g": "4"})
    whole = path.read_bytes()
    rng = np.random.default_rng(7)
    for trial in range(40):
        content = bytearray(whole)
        if trial % 2:
            del content[int(rng.integers(1, len(content))) :]
        else:
            for place in rng.integers(0, len(content), 8):
                content[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            frames = open_frames(path)
            shown = len(list(frames))
        except InputError:
            continue
        least = {".mp4": COUNT, ".avi": COUNT, ".mkv": COUNT - 1}.get(path.suffix, 1)
        assert trial % 2 == 0 or shown >= least or frames.damage(), (trial, shown)
        assert shown <= COUNT + 2


# --- what a video may not do ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile clip.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nclip.mp4\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    ],
    ids=["concat", "hls", "sdp"],
)
@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8", "list.ffconcat", "list.sdp"])
def test_playlists_open_no_other_file(tmp_path, text, name):
    encode(tmp_path / "clip.mp4", "libx264")
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="cannot be decoded as a video"):
        open_frames(tmp_path / name)


# --- animated pictures ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.apng", "a.tif"])
def test_animated_pictures_are_videos(tmp_path, name):
    pages = [Image.fromarray(np.full((24, 40, 3), 20 * number, np.uint8)) for number in range(4)]
    options = {} if name.endswith("tif") else {"duration": 100, "loop": 0}
    kind = "PNG" if name.endswith("png") else None
    pages[0].save(tmp_path / name, kind, save_all=True, append_images=pages[1:], **options)
    frames = open_frames(tmp_path / name)
    assert frames.names == ["00000", "00001", "00002", "00003"] and frames.size == (24, 40)
    assert [round(frame.mean() / 20) for _, frame in frames] == [0, 1, 2, 3]
    assert round(frames["00002"].mean() / 20) == 2
    if options:
        assert frames.fps == pytest.approx(10)


def test_a_file_of_many_pages_is_no_frame_of_a_folder(tmp_path):
    page = Image.fromarray(np.zeros((24, 40), np.uint8))
    page.save(tmp_path / "00000.tif")
    page.save(tmp_path / "00001.tif", save_all=True, append_images=[page])
    with pytest.raises(InputError, match=r"'00001\.tif' holds several"):
        open_frames(tmp_path).check()


def test_masks_among_the_frames_are_no_frames(tmp_path):
    for name in ("00000.png", "00001.png", "annotation.png"):
        Image.fromarray(np.zeros((24, 40), np.uint8)).save(tmp_path / name)
    frames = open_frames(tmp_path)
    assert frames.without([tmp_path / "annotation.png"]).names == ["00000", "00001"]
    assert frames.without(["elsewhere.png"]).names == ["00000", "00001", "annotation"]


# --- written --------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", [H264, PRORES_4444, VP9_ALPHA], ids=lambda kind: kind.suffix)
def test_written_colours_are_those_that_were_given(tmp_path, format):
    frame = colour_bars()
    if format.alpha:
        frame = np.dstack([frame, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    path = tmp_path / f"bars{format.suffix}"
    with write_video(path, (HEIGHT, WIDTH), 25, format=format) as video:
        for _ in range(3):
            video.write(frame)
    require_bars(open_frames(path)[1], 8)


def test_prores_keeps_alpha_pixel_by_pixel(tmp_path):
    alpha = cv2.GaussianBlur(np.kron(np.eye(2), np.ones((24, 32))) * 255, (9, 9), 3)
    frame = np.dstack([colour_bars(), alpha.astype(np.uint8)])
    with write_video(tmp_path / "a.mov", (HEIGHT, WIDTH), 25, format=PRORES_4444) as video:
        video.write(frame)
    with av.open(os.fspath(tmp_path / "a.mov")) as source:
        back = next(source.decode(video=0)).to_ndarray(format="rgba")
    assert np.abs(back[..., 3].astype(int) - frame[..., 3]).max() <= 1


def test_the_overlay_starts_while_it_loads_and_keeps_the_sound(tmp_path):
    source = tmp_path / "source.mp4"
    with av.open(os.fspath(source), "w") as output:
        video = output.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = output.add_stream("aac", rate=44100)
        for number in range(20):
            picture = av.VideoFrame.from_ndarray(numbered(number % 12), format="rgb24")
            output.mux(video.encode(picture))
        tone = np.sin(np.arange(2 * 44100) / 16).astype(np.float32)[None]
        samples = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        samples.sample_rate, samples.pts = 44100, 0
        output.mux(sound.encode(samples))
        output.mux(sound.encode())
        output.mux(video.encode())
    frames = open_frames(source)
    path = tmp_path / "overlay.mp4"
    with write_video(path, frames.size, frames.fps, sound=frames.sound) as overlay:
        for name, frame in frames:
            overlay.write(frame, frames.time(name))
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    with av.open(os.fspath(path)) as written:
        assert written.streams.video[0].codec_context.name == "h264"
        assert written.streams.video[0].pix_fmt == "yuv420p"
        (heard,) = written.streams.audio
        assert float(heard.duration * heard.time_base) == pytest.approx(2, abs=0.15)
        shown = [frame.time for frame in written.decode(video=0)]
    assert shown == pytest.approx([number / 10 for number in range(20)], abs=1e-3)
