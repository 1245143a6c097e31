"""The command that serves: what it says, how it ends, what it refuses."""

import concurrent.futures
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import requests

from osvos_tf.commands import cli, serve
from osvos_tf.errors import InputError
from support import toy_model
from support.world import REPOSITORY

SECONDS = 120


@pytest.fixture(scope="module")
def saved_models(tmp_path_factory):
    """A folder of two models, with TF Serving's configuration of one."""
    root = tmp_path_factory.mktemp("saved_models")
    toy_model.save(root / "dog" / "3")
    toy_model.save(root / "cat" / "1")
    config = 'model_config_list { config { name: "dog" base_path: "/models/dog" } }'
    (root / "models.config").write_text(config)
    return root


def start(*flags):
    command = [sys.executable, "-m", "pipelines.serve", *flags]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_serving_until_a_signal(saved_models):
    flags = [f"--model={name}:{saved_models / name}" for name in ("dog", "cat")]
    with start(*flags, "--rest_port=0", "--grpc_port=0") as process:
        said = [process.stdout.readline() for _ in range(4)]
        assert said[0] == f"Serving dog, version 3, from {saved_models / 'dog'}\n"
        assert said[1] == f"Serving cat, version 1, from {saved_models / 'cat'}\n"
        url = re.fullmatch(r"REST: (http://127\.0\.0\.1:\d+)/v1/models/dog\n", said[2])[1]
        assert re.fullmatch(r"gRPC: 127\.0\.0\.1:\d+\n", said[3])
        for name in ("dog", "cat"):
            assert requests.get(f"{url}/v1/models/{name}", timeout=SECONDS).ok
        body = {"instances": np.zeros((1, 300, 300, 3), int).tolist()}
        with concurrent.futures.ThreadPoolExecutor() as threads:
            post = threads.submit(
                requests.post, f"{url}/v1/models/dog:predict", json=body, timeout=SECONDS
            )
            toy_model.wait_until(
                lambda: (
                    "queue_length 1" in requests.get(f"{url}/metrics", timeout=SECONDS).text
                    or post.done()
                )
            )
            process.send_signal(signal.SIGTERM)
            assert post.result().ok, "a request in flight is answered"
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out) == (143, "")
    assert "dog: version 3 is in use" in err and "Traceback" not in err


@pytest.mark.slow
def test_a_configuration_that_changes(saved_models, tmp_path):
    def write(*names):
        models = (f'config {{ name: "{n}" base_path: "{saved_models / n}" }}' for n in names)
        config.write_text(f"model_config_list {{ {' '.join(models)} }}")

    def status(name):
        return requests.get(f"{url}/v1/models/{name}", timeout=SECONDS).status_code

    config = tmp_path / "models.config"
    write("dog")
    ports = ["--rest_port=0", "--grpc_port=0"]
    with start(f"--model_config={config}", "--config_poll_seconds=0.1", *ports) as process:
        said = [process.stdout.readline() for _ in range(3)]
        url = said[1].removeprefix("REST: ").partition("/v1/")[0]
        assert (status("dog"), status("cat")) == (200, 404)
        write("cat", "dog")
        toy_model.wait_until(lambda: status("cat") == 200)
        config.write_text("model_config_list {")  # half-written
        write("cat")
        toy_model.wait_until(lambda: status("dog") == 404)
        assert status("cat") == 200
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=SECONDS)
    assert "has changed: cat" in err and "Traceback" not in err


@pytest.mark.slow
def test_interrupted(saved_models):
    flags = [f"--model_config={saved_models / 'models.config'}", "--rest_port=0", "--grpc_port=0"]
    with start(*flags) as process:
        assert process.stdout.readline() == (
            f"Serving dog, version 3, from {saved_models / 'dog'}\n"
        )
        process.stdout.readline()
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert err.endswith("serve: interrupted.\n") and "Traceback" not in err


@pytest.mark.slow
def test_exit_status_of_a_users_mistake(tmp_path):
    (tmp_path / "1").mkdir()
    with start(f"--model=dog:{tmp_path}", "--rest_port=0", "--grpc_port=0") as process:
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("serve: No version of model 'dog'") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--model=NAME:DIR or --model_config=FILE"),
        (["--model=dog:a", "--model_config=b"], "either"),
        (["--model=saved_models"], "NAME:DIR"),
        (["--model=:saved_models"], "NAME:DIR"),
        (["--model=a/b:saved_models"], "NAME:DIR"),
        (["--model=dog:"], "NAME:DIR"),
        (["--model=dog:a", "--model=dog:b"], "its own name"),
        (["--model=dog:a", "--max_megapixels=0"], "--max_megapixels"),
        (["--model=dog:a", "--poll_seconds=0"], "--poll_seconds"),
        (["--model=dog:a", "--grpc_channel_arguments=max=5"], "grpc.NAME=VALUE"),
        (["--model=dog:a", "--ssl_config=none.config"], "SSLConfig"),
        (["--model=dog:a"], "does not exist"),
        (["--model=dog:a", "--host=no such host"], "Cannot listen"),
    ],
)
def test_refused_with_a_message(flags, message):
    flags = ["--rest_port=0", "--grpc_port=0", *flags]
    with pytest.raises(InputError, match=message):
        serve.main(cli.parse(serve.FLAGS, flags))


@pytest.mark.parametrize("flag", ["--rest_port=70000", "--queue=-1", "--workers=0", "word"])
def test_flags_out_of_range(flag):
    with pytest.raises((InputError, serve.flags.Error)):
        cli.parse(serve.FLAGS, ["--model=dog:a", flag])
