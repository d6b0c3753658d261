"""Latent data sets: encode once, train many times."""

from .dataset import LatentDataset
from .encode import encode_dataset
from .index import Index, ShardEntry, merge_dataset, missing_shards, read_index
from .parquet import from_parquet, to_parquet
from .plan import Plan, read_plan, write_plan
from .records import NO_LABEL, Record
from .sampler import BucketSampler
from .shards import Shard, pack_shard, shard_name

__all__ = [
    "NO_LABEL",
    "BucketSampler",
    "Index",
    "LatentDataset",
    "Plan",
    "Record",
    "Shard",
    "ShardEntry",
    "encode_dataset",
    "from_parquet",
    "merge_dataset",
    "missing_shards",
    "pack_shard",
    "read_index",
    "read_plan",
    "shard_name",
    "to_parquet",
    "write_plan",
]
