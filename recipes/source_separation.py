"""Separate singing from music: the same network on waveforms, spectra and latents, at equal compute and equal frames.

    python -m recipes.source_separation
    python -m recipes.source_separation --data PATH/TO/STEMS --test-tracks "live*" --steps 5000 --seeds 3
    python -m recipes.source_separation --data MUSDB_HQ --data-root PATH --sources vocals drums bass other
    torchrun --nproc-per-node 2 -m recipes.source_separation

Every arm of recipes/separation/front_ends.py trains the network of recipes/separation/network.py on the same crops and
is scored on the same segments. The table shows what trivial estimates score, and what each front end could carry at
best.
"""

import dataclasses
import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
import tyro
from torch import Tensor
from tqdm import tqdm

from recipes.common.ranks import Ranks, save_config, write_atomically
from recipes.separation.front_ends import ARMS, HOP, UNIT, make_front_end
from recipes.separation.network import Separator, Size, macs_per_second
from recipes.separation.report import caption, draw_spectrograms, write_sounds
from recipes.separation.scores import Row, as_csv, best_gains, markdown, score_all, summarize
from recipes.separation.tracks import RATE, Crops, Track, load_tracks, segments
from recipes.separation.training import Schedule, separate, train

Pieces = list[tuple[Track, int]]

MEASURED_CROPS = 16  # for the statistics of features, and the gains of the scaled mixture
EXCERPT = 6.0  # seconds to look at and listen to


@dataclass
class Settings:
    """How the arms are trained and scored."""

    data: str = "demo"
    """`demo` (a procedural band), a folder of TRACK/STEM.wav, perhaps below `train` and `test`, or `MUSDB_HQ`."""
    data_root: Path = Path("data")
    """Where MUSDB_HQ is, or is downloaded to."""
    sources: tuple[str, ...] = ("vocals", "accompaniment")
    """`vocals accompaniment`, or `vocals drums bass other`."""
    test_tracks: str = ""
    """Pattern of the names of the test tracks, where the folder has no `train` and `test`; else every fifth."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Which front ends to compare."""
    steps: int = 250
    batch_size: int = 4
    segment_seconds: float = 1.5
    """Length of the training crops and of the test segments, rounded to 512 samples."""
    lr: float = 3e-3
    """Peak learning rate of Adam; linear warm-up over the first tenth, then a half cosine to zero."""
    loss: Literal["waveform", "latent"] = "waveform"
    """Mean absolute error of the waveforms, or of the carriers (arms with a fixed front end)."""
    trunk: Literal["conv_tasnet", "transformer"] = "conv_tasnet"
    size: Size = field(default_factory=Size)
    memory_gb: float = 2.0
    """Tracks beyond are read crop by crop."""
    checkpoint_every: int = 100
    """Steps."""

    @property
    def samples(self) -> int:
        """Length of crops and segments."""
        return round(self.segment_seconds * RATE / UNIT) * UNIT


@dataclass
class Config(Settings):
    """Compare what a separation network may read."""

    seeds: int = 1
    """Seeds 0 to seeds - 1; each draws its own crops and initialization."""
    resume: bool = False
    """Keep finished runs and go on from checkpoints in the output folder."""
    output_dir: Path = Path("runs/source_separation")
    """Gets table.md, table.csv, segments.csv, spectrograms.png, sounds and a folder per run."""


def check(config: Config) -> None:
    """Raise a ValueError for settings that cannot be run, now rather than after an hour."""
    models = {arm: build(config, arm, 0) for arm in config.arms}
    if config.seeds < 1 or not config.arms:
        raise ValueError("there is nothing to run: expected at least one arm and one seed")
    for name in ("steps", "batch_size", "checkpoint_every"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    if config.samples < 8 * HOP:
        raise ValueError(f"segment_seconds must be at least {8 * HOP / RATE:.3f}, got {config.segment_seconds}")
    learned = [arm for arm, model in models.items() if not model.front.fixed]
    if config.loss == "latent" and learned:
        raise ValueError(
            f"--loss latent compares with what a fixed front end gives for the true sources: {learned[0]} "
            "learns its own, and could make both small; leave it out of --arms"
        )


def main(config: Config) -> list[Row]:
    """Run every arm with every seed, write table, picture and sounds; returns the table's rows.

    Raises:
        ValueError: A setting is out of range, or the data do not do (see recipes/separation/tracks.py).
        FileNotFoundError: There is no such folder, or there are no stems in it.
    """
    check(config)
    ranks = Ranks.start()
    tracks, test = load_tracks(
        config.data,
        config.data_root,
        config.sources,
        test_tracks=config.test_tracks,
        memory=config.memory_gb * 1e9,
        show=ranks.first,
    )
    if ranks.first:
        save_config(config.output_dir, config)
    pieces = segments(test, config.samples)
    rows = trivial(config, tracks, pieces)
    scored = {source: sum(r["source"] == source for r in rows if r["arm"] == "silence") for source in config.sources}
    if not all(scored.values()):
        raise ValueError(f"a source is silent in all {len(pieces)} test segments: scored were {scored}")
    about: dict[str, Row] = {}
    for seed in range(config.seeds):
        for arm in config.arms:
            result = run(config, arm, seed, tracks, pieces, ranks)
            own = result.pop("rows")
            rows += own
            about.setdefault(arm, result)
            if ranks.first:
                sdr = statistics.fmean(r["sdr"] for r in own if r["source"] == config.sources[0])
                tqdm.write(
                    f"{arm}, seed {seed}: {config.sources[0]} SDR {sdr:.2f} dB, {result['step_rate']:.2f} steps/s"
                )
    table = [{**row, **about.get(row["arm"], {})} for row in summarize(rows, config.sources)]
    if ranks.first:
        text = caption(config.sources, config.samples / RATE, len(pieces), scored) + markdown(table, config.sources)
        write_atomically(config.output_dir / "table.md", text)
        write_atomically(config.output_dir / "table.csv", as_csv(table))
        write_atomically(config.output_dir / "segments.csv", as_csv(rows))
        show(config, pieces, rows)
    return table


def trivial(config: Config, tracks: list[Track], pieces: Pieces) -> list[Row]:
    """Score what takes no training: trivial estimates, and the true sources through the lossy front ends."""
    gains = best_gains(Crops(tracks, config.samples, 0).batch(0, MEASURED_CROPS))
    scale = torch.tensor(gains)[:, None, None]
    fronts = {arm: make_front_end(arm) for arm in config.arms}
    lossy = {arm: front for arm, front in fronts.items() if front.fixed and front.linear}
    rows: list[Row] = []
    for track, start in pieces:
        truth = track.crop(start, config.samples)
        mixture = truth.sum(0).expand_as(truth)
        estimates = {
            "silence": torch.zeros_like(truth),
            "mixture as estimate": mixture,
            "mixture, scaled": mixture * scale,
        }
        estimates |= {f"source through {arm}": front.synthesize(front.analyze(truth)) for arm, front in lossy.items()}
        for arm, estimate in estimates.items():
            rows += score_all(estimate, truth, config.sources, _about(arm, "", track, start))
    return sorted(rows, key=lambda row: ("source through" in row["arm"], row["arm"]))  # stable within an arm


def _about(arm: str, seed: int | str, track: Track, start: int) -> Row:
    return {"arm": arm, "seed": seed, "track": track.name, "start": start / RATE}


def build(config: Config, arm: str, seed: int) -> Separator:
    """Make an arm's network; its trunk starts the same for the same seed, as far as shapes agree."""
    torch.manual_seed(seed)
    return Separator(make_front_end(arm), len(config.sources), config.trunk, config.size, config.samples // HOP)


def run(config: Config, arm: str, seed: int, tracks: list[Track], pieces: Pieces, ranks: Ranks) -> Row:
    """Train and score one arm with one seed; a finished run with ``--resume`` is only read."""
    folder = config.output_dir / f"{arm}_seed{seed}"
    result_file = folder / "result.json"
    if ranks.first:
        save_config(folder, dataclasses.replace(config, arms=(arm,)), resume=config.resume)
    if config.resume and result_file.is_file():
        return json.loads(result_file.read_text("utf-8"))
    model = build(config, arm, seed)
    crops = Crops(tracks, config.samples, seed)
    model.measure(crops.batch(0, MEASURED_CROPS).sum(1))
    schedule = Schedule(config.steps, config.batch_size, config.lr, config.loss, config.checkpoint_every)
    record = train(model, crops, schedule, folder, ranks=ranks, resume=config.resume, description=f"{arm}, seed {seed}")
    own = pieces[ranks.rank :: ranks.world]
    rows: list[Row] = []
    for i, estimates, truth in separate(model, own, config.samples, config.batch_size, ranks.device):
        rows += score_all(estimates, truth, config.sources, _about(arm, seed, *own[i]))
    if ranks.world > 1:
        gathered: list[list[Row]] = [[]] * ranks.world
        dist.all_gather_object(gathered, rows)
        rows = [row for part in gathered for row in part]
    trunk_macs, macs = macs_per_second(model, config.segment_seconds, RATE)
    result = {
        "values": model.front.values,
        "trunk_macs": trunk_macs,
        "macs": macs,
        "step_rate": record["step_rate"],
        "rows": rows,
    }
    if ranks.first:
        write_atomically(result_file, json.dumps(result) + "\n")
    return result


def show(config: Config, pieces: Pieces, rows: list[Row]) -> None:
    """Draw and write an excerpt of some seconds as every arm separates it, from its first seed."""
    heard = [
        (t, s)
        for t, s in pieces
        if sum((r["arm"], r["track"], r["start"]) == ("silence", t.name, s / RATE) for r in rows) == len(config.sources)
    ] or pieces
    track, start = heard[len(heard) // 2]
    samples = max(config.samples, min(round(EXCERPT * RATE), track.length - start) // UNIT * UNIT)
    sounds: dict[str, Tensor] = {}
    for arm in config.arms:
        model = build(config, arm, 0)
        checkpoint = config.output_dir / f"{arm}_seed0" / "checkpoint.pt"
        model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["model"])
        _, estimates, truth = next(separate(model, [(track, start)], samples, 1, torch.device("cpu")))
        sounds |= {"mixture": truth.sum(0)}
        sounds |= {f"{source}, truth": true for source, true in zip(config.sources, truth, strict=True)}
        sounds |= {f"{source}, {arm}": sound for source, sound in zip(config.sources, estimates, strict=True)}
    write_sounds({name.replace(", ", "_"): sound for name, sound in sounds.items()}, config.output_dir / "sounds", RATE)
    drawn = {name: sound for name, sound in sounds.items() if name.startswith(("mixture", config.sources[0]))}
    draw_spectrograms(drawn, config.output_dir / "spectrograms.png", RATE, f"{track.name}, from {start / RATE:.1f} s")


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    main(config)
    if Ranks.start().first:
        print((config.output_dir / "table.md").read_text("utf-8"))
        print(f"written to {config.output_dir}: table.md, table.csv, segments.csv, spectrograms.png, sounds")
