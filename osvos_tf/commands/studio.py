r"""Opens a page in the browser: mark an object, learn it, look, correct, take it home.

    python -m pipelines.studio --frames=dog.mp4

prints the page's address and opens it. The page is on this machine alone. What is made lies in
`--out` as `segment` leaves it; what is drawn lies beside it. Close the page or end this command
(Ctrl-C): started again, all is there.
"""

import asyncio
import pathlib
import webbrowser

from absl import flags

from osvos_tf.commands import cli, segment, shared_flags
from osvos_tf.errors import missing_package
from osvos_tf.segmentation.options import LearnOptions, SegmentOptions

_OF_SEGMENT = (
    "parent", "recipe", "updates", "budget", "until_learned", "heads", "height", "crop", "views",
    "frozen", "object", "mask_threshold", "follow", "adapt", "smooth", "threshold", "snap",
    "contour", "contour_threshold", "precision", "seed", "save",
)  # fmt: skip
FLAGS = flags.FlagValues()
shared_flags.define_path(
    "frames", None, "Folder of images or a video file to begin with.", flag_values=FLAGS
)
shared_flags.define_path(
    "out", None, "Folder for the results. Unset: results/NAME.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "port", 0, "Port to listen on; 0 takes a free one.", lower_bound=0, upper_bound=65535,
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_boolean("browser", True, "Open the page in the browser.", flag_values=FLAGS)
for _name in _OF_SEGMENT:
    FLAGS[_name] = segment.FLAGS[_name]
GROUPS = (
    ("What you need", ("frames", "out", "port", "browser")),
    ("As of segment", _OF_SEGMENT),
)


def main(args: flags.FlagValues) -> None:
    """Flags -> a page and its server, until a signal ends it."""
    try:
        from osvos_tf.studio import app as studio_app
        from osvos_tf.studio.desk import Desk
    except ImportError as error:
        raise missing_package("The studio", "studio", error) from error

    learn = shared_flags.read_options(LearnOptions, args)
    segment_options = shared_flags.read_options(SegmentOptions, args)

    def open_desk(path: str) -> Desk:
        out = args.out if path == args.frames else None
        return Desk(path, out, learn, segment_options, tuple(args.save))

    studio = studio_app.Studio(open_desk, args.frames, pathlib.Path.cwd())

    async def serve() -> None:
        async with studio_app.listening(studio, args.port) as port:
            address = f"http://127.0.0.1:{port}/?token={studio.token}"
            print(f"The studio is at {address}\nCtrl-C ends it; nothing is lost.", flush=True)
            if args.browser:
                webbrowser.open(address)
            while True:  # until a signal
                await asyncio.sleep(0.5)

    asyncio.run(serve())


def run() -> None:
    """Runs the console command."""
    cli.run(main, FLAGS, __doc__ or "", GROUPS)


if __name__ == "__main__":
    run()
