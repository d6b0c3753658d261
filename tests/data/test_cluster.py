"""Encoding on a Ray cluster of two nodes: the driver is killed, then a node, and the files are those of one process.

Drivers are processes of their own: they are killed, and what Ray warns of is no error there.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

import walloc_transforms as wt
from tests.data.slow_images import SHARD_SIZE, SlowImages
from tests.data.test_encode import contents

COUNT = 40
SHARDS = COUNT // SHARD_SIZE


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else Ray leaves a token in the home folder
    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80_000_000}
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        made.add_node(**node)
        yield made
    finally:
        made.shutdown()


def start(cluster: Any, out: Path, seen: Path, log: Path) -> "subprocess.Popen[bytes]":
    seen.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.data.slow_images", str(out), str(seen), str(COUNT), "0.2"]
    with log.open("wb") as opened:
        return subprocess.Popen(
            command, env={**os.environ, "RAY_ADDRESS": cluster.address}, stdout=opened, stderr=subprocess.STDOUT
        )


def wait_for_shards(out: Path, count: int, driver: "subprocess.Popen[bytes]", log: Path) -> dict[Path, int]:
    while len(shards := list(out.glob("shard-*"))) < count:
        assert driver.poll() is None, log.read_text()
        time.sleep(0.02)
    return {file: file.stat().st_mtime_ns for file in shards}


@pytest.mark.slow
def test_driver_and_node_are_killed(cluster: Any, tmp_path: Path) -> None:
    whole = wt.encode_dataset(SlowImages(COUNT), tmp_path / "local", "rgb_16x", shard_size=SHARD_SIZE, progress=False)
    out, seen, log = tmp_path / "out", tmp_path / "seen", tmp_path / "log"
    driver = start(cluster, out, seen, log)
    finished = wait_for_shards(out, 5, driver, log)
    driver.kill()
    driver.wait()
    driver = start(cluster, out, seen, log)
    assert len(wait_for_shards(out, 12, driver, log)) < SHARDS and len(list(seen.iterdir())) == 2
    cluster.remove_node(next(node for node in cluster.worker_nodes), allow_graceful=False)
    assert driver.wait() == 0, log.read_text()
    assert f"1 of {COUNT} images are left out" in log.read_text() and f"{COUNT}/{COUNT}" in log.read_text()
    assert whole is not None and contents(out) == contents(whole.path)
    assert {file: file.stat().st_mtime_ns for file in finished} == finished  # those of the dead node may come twice
