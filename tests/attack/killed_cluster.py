"""Kill drivers and nodes of a Ray cluster while it encodes a data set: the files are those of one process.

    python -m tests.attack.killed_cluster --kills 10

A killed node is replaced, as a cluster manager does; a killed driver is started again.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from tests.attack.killed_encode import sums
from tests.data.slow_images import SHARD_SIZE, SlowImages
from walloc_transforms.data import encode_dataset

IMAGES = 60
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80_000_000}


def kill_series(folder: Path, kills: int, chance: random.Random) -> Counter[str]:
    """Encode data set after data set until enough was killed.

    Returns:
        What was killed, and what was wrong in the end.
    """
    encode_dataset(SlowImages(IMAGES), folder / "whole", "rgb_16x", shard_size=SHARD_SIZE, progress=False)
    expected, outcome = sums(folder / "whole"), Counter[str]()
    (folder / "seen").mkdir()
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        cluster.add_node(**NODE)
        while outcome["drivers"] + outcome["nodes"] < kills:
            out = folder / f"{outcome['series']}"
            _encode(cluster, out, folder / "seen", kills, outcome, chance)
            outcome["series"] += 1
            outcome["different in the end"] += sums(out) != expected
    finally:
        cluster.shutdown()
    return outcome


def _encode(cluster: Any, out: Path, seen: Path, kills: int, outcome: Counter[str], chance: random.Random) -> None:
    command = [sys.executable, "-m", "tests.data.slow_images", str(out), str(seen), str(IMAGES), "0.2"]
    environment, log = {**os.environ, "RAY_ADDRESS": cluster.address}, out.with_suffix(".log")
    while True:
        with log.open("wb") as opened:
            driver = subprocess.Popen(command, env=environment, stdout=opened, stderr=opened)
        while driver.poll() is None and outcome["drivers"] + outcome["nodes"] < kills:
            enough = len(list(out.glob("shard-*"))) + chance.randint(1, 4)
            while driver.poll() is None and len(list(out.glob("shard-*"))) < enough:
                time.sleep(0.02)
            time.sleep(chance.uniform(0, 0.3))
            if driver.poll() is not None:
                break
            what = chance.choice(["drivers", "nodes"])
            outcome[what] += 1
            print(f"kill {what[:-1]}: {len(list(out.glob('shard-*')))} shards are there", flush=True)
            if what == "drivers":
                driver.kill()
                break
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
            cluster.add_node(**NODE)
        if driver.wait() == 0:
            return
        if driver.returncode > 0:
            outcome["failed"] += 1
            print(log.read_text("utf-8", "replace")[-3000:])


def main() -> None:
    """Kill, and print what came of it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=10)
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    with tempfile.TemporaryDirectory() as folder:
        print(dict(kill_series(Path(folder), asked.kills, random.Random(asked.seed))))


if __name__ == "__main__":
    main()
