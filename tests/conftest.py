"""What tests of several packages need: who runs beside whom, folders made once per run, an S3 server on loopback."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

# Before torch is imported, here, by the workers of pytest-xdist and by the processes that tests start: toys gain nothing
# from a second thread, and two workers fill two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# With `pytest -n 2 --dist loadgroup`, the tests of a group follow one another on one worker: those that start, kill or
# time real processes, those of the S3 server, and those of a file whose fixtures take seconds.
GROUPS = {
    "processes": (
        "cache/test_faults.py",
        "cache/store/test_locks.py",
        "cache/store/test_moments.py",
        "extract/weights/test_download.py",
        "pipelines/stages/test_corpus.py",
        "pipelines/project/test_dvc_locks.py",
        "pipelines/stages/test_extraction.py",
        "pipelines/project/test_runs.py",
        "pipelines/project/test_jobs.py",
        "pipelines/stages/test_several_devices.py",
        "pipelines/clusters/test_sharing.py",
        "pipelines/search/test_search.py",
    ),
    "dvc": ("pipelines/test_dvc.py", "pipelines/test_own_project.py", "pipelines/test_tutorials.py"),
    "s3": (
        "cache/store/test_verification.py",
        "cache/places/test_folders.py",
        "pipelines/test_features_anywhere.py",
        "pipelines/clusters/test_stages.py",
    ),
    "demo": ("extract/corpora/demo/test_corpus.py",),
    "backbones": ("extract/test_backbones.py",),
    "runtimes": ("extract/engine/test_runtimes.py",),
    "facenet": ("extract/backbones/test_facenet.py",),
    "resnet50": ("extract/backbones/test_resnet50.py",),
    "vggish": ("extract/backbones/test_vggish.py",),
}
# Files and folders whose results depend on the processor: they train toys, or compare computations to a tolerance.
NUMERICAL = (
    "tests/extract/backbones/",
    "tests/extract/test_backbones.py",
    "tests/extract/faces/test_detection.py",
    "tests/extract/inputs/test_spectrogram.py",
    "tests/fusion/",
)
NOT_NUMERICAL = ("tests/fusion/scores/test_luck.py", "tests/fusion/training/test_checkpoint.py")
"""Files among them that take seconds and compare nothing that was computed in another way."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests of NUMERICAL."""
    if item.nodeid.startswith(NUMERICAL) and not item.nodeid.startswith(NOT_NUMERICAL):
        item.add_marker(pytest.mark.numerical)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep GROUPS together, and hand out all other tests one by one.

    The mark `xdist_group` would do, but pytest-xdist 3.8 does not see it with pytest 9.2 (pytest-xdist, issue 1386).
    """
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    group_of = {f"tests/{name}": group for group, names in GROUPS.items() for name in names}

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of.get(nodeid.split("::")[0], nodeid)

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Have a folder made by the first worker that needs it; nobody may write to it afterwards."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent  # the temporary folder of the run, of which every worker has a part

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        folder, done = place / f"{name}-once", place / f"{name}-once.done"
        with FileLock(place / f"{name}-once.lock"):
            if not done.exists():
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """URL of an empty bucket on an S3 server of this machine."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'avfusion[s3]'")
    server_module = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[server]'")
    import boto3

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    boto3.client("s3").create_bucket(Bucket="avfusion")
    try:
        yield "s3://avfusion"
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
