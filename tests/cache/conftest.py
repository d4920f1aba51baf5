"""Places that a store can live in: a local folder, memory, and an S3 server on loopback."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cache.clock import FrameClock
from cache.places import Where
from cache.spec import FeatureSpec
from cache.store import FeatureStore

SPEC = FeatureSpec("mobilefacenet", "visual", 8, {"size": 112}, "00ff")


def make_clock(num_frames: int = 20) -> FrameClock:
    """A clock of 30000/1001 Hz."""
    return FrameClock(Fraction(30000, 1001), num_frames)


def make_features(num_frames: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(T, 8) embeddings and (T,) valid, every fifth frame or so unseen."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_frames, 8)).astype(np.float32), rng.random(num_frames) > 0.2


def write_trial(store: FeatureStore, trial_id: str, num_frames: int = 20, seed: int = 0) -> None:
    """Commit a trial of made-up embeddings."""
    values, valid = make_features(num_frames, seed)
    store.write(trial_id, values, valid, source=f"source of {trial_id}", clock=make_clock(num_frames), seconds=1.5)


@pytest.fixture
def made() -> SimpleNamespace:
    """The helpers above."""
    return SimpleNamespace(spec=SPEC, clock=make_clock, features=make_features, write=write_trial)


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
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    boto3.client("s3").create_bucket(Bucket="avfusion")
    try:
        yield "s3://avfusion"
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(params=["local", "memory", "s3"])
def features(request: pytest.FixtureRequest, tmp_path: Path) -> Where:
    """An empty folder for features: a path or a URL."""
    if request.param == "local":
        return tmp_path / "features"
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    return f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"
