"""Separate singing from music: the same network on waveforms, spectra and latents, at equal compute and equal frames.

    python -m recipes.source_separation
    python -m recipes.source_separation --data PATH/TO/STEMS --test-tracks "live*" --steps 5000 --seeds 3
    python -m recipes.source_separation --data MUSDB_HQ --data-root PATH --sources vocals drums bass other
    torchrun --nproc-per-node 2 -m recipes.source_separation

Every arm of recipes/separation/front_ends.py trains the network of recipes/separation/network.py on the same crops and
is scored on the same segments. The table shows what trivial estimates score, and what each front end could carry at
best.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from recipes.common.checks import check_above_zero, check_batch
from recipes.common.command import run_command
from recipes.common.comparison import check_comparison, compare, files_of_arms, first_runs
from recipes.common.loop import train_steps
from recipes.common.outputs import claim
from recipes.common.ranks import Ranks
from recipes.common.runs import FILES, Run, load_checkpoint
from recipes.common.tables import Record, as_csv
from recipes.separation.front_ends import ARMS, HOP, UNIT, make_front_end
from recipes.separation.network import NetworkSize, Separator, macs_per_second
from recipes.separation.report import caption, draw_spectrograms, write_sounds
from recipes.separation.scores import best_gains, is_silent, markdown, mean_by_source, score_all
from recipes.separation.tracks import RATE, Crops, Segment, Track, load_tracks, segments_of
from recipes.separation.training import loss_of, parameter_groups, separate
from walloc_transforms.safe import write_atomically

WRITTEN = (
    *("table.md", "table.csv", "segments.csv", "spectrograms.png", "sounds/*.wav"),
    *files_of_arms(ARMS, FILES),
)
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
    size: NetworkSize = field(default_factory=NetworkSize)
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
    """Go on with what --output-dir holds, which must have the same settings: finished runs are kept."""
    overwrite: bool = False
    """Put this comparison in the place of the one that --output-dir holds."""
    output_dir: Path = Path("runs/source_separation/TIME")
    """A new or empty folder, which gets table.md, table.csv, segments.csv, spectrograms.png, sounds and a folder per
    run. TIME stands for date and time."""


def check(config: Config) -> None:
    """Raise a ValueError for settings that cannot be run, now rather than after an hour."""
    check_comparison(config, ("steps", "batch_size", "checkpoint_every"))
    check_above_zero(config, ("lr", "segment_seconds"))
    models = {arm: build(config, arm, 0) for arm in config.arms}
    if config.samples < 8 * HOP:
        raise ValueError(f"segment_seconds must be at least {8 * HOP / RATE:.3f}, got {config.segment_seconds}")
    learned = [arm for arm, model in models.items() if not model.front.fixed]
    if config.loss == "latent" and learned:
        raise ValueError(
            f"--loss latent compares with what a fixed front end gives for the true sources: {learned[0]} "
            "learns its own, and could make both small; leave it out of --arms"
        )


def main(config: Config) -> list[Record]:
    """Run every arm with every seed, write table, picture and sounds; returns the table's rows.

    Raises:
        ValueError: A setting is out of range, or the data do not do (see recipes/separation/tracks.py).
        FileNotFoundError: There is no such folder, or there are no stems in it.
    """
    check(config)
    ranks = Ranks.start()
    check_batch(config.batch_size, ranks)
    with claim("source_separation", config, ranks, WRITTEN) as begin:
        tracks, segments = open_tracks(config, show=ranks.first)
        begin()
        return train_and_score_all(config, tracks, segments, ranks)


def open_tracks(config: Config, *, show: bool) -> tuple[list[Track], list[Segment]]:
    """Open the training tracks and the test segments, in which every source must be heard somewhere."""
    tracks, test = load_tracks(
        config.data,
        config.data_root,
        config.sources,
        test_tracks=config.test_tracks,
        memory=config.memory_gb * 1e9,
        show=show,
    )
    segments = segments_of(test, config.samples)
    heard = dict.fromkeys(config.sources, 0)
    for track, start in segments:
        for source, sound in zip(config.sources, track.crop(start, config.samples), strict=True):
            heard[source] += not is_silent(sound)
    if not all(heard.values()):
        raise ValueError(f"a source is silent in all {len(segments)} test segments: scored were {heard}")
    return tracks, segments


def train_and_score_all(config: Config, tracks: list[Track], segments: Sequence[Segment], ranks: Ranks) -> list[Record]:
    """Run every arm with every seed, write table, picture and sounds; returns the table's rows."""
    rows = score_untrained(config, tracks, segments)
    scored = {source: sum(r["source"] == source for r in rows if r["arm"] == "silence") for source in config.sources}

    def train_and_score(arm: str, seed: int, run: Run) -> Record:
        model, crops = build(config, arm, seed), Crops(tracks, config.samples, seed)
        model.measure(crops.batch(0, MEASURED_CROPS).sum(1))
        record = train(config, model, crops, run)
        own = segments[ranks.rank :: ranks.world]
        separated = separate(model, own, config.samples, config.batch_size, ranks.device)
        scores = [
            score_all(estimates, truth, config.sources, about(arm, seed, segment))
            for segment, (estimates, truth) in zip(own, separated, strict=True)
        ]
        trunk_macs, macs = macs_per_second(model, config.segment_seconds, RATE)
        costs = {"values": model.front.values, "trunk_macs": trunk_macs, "macs": macs, "step_rate": record["step_rate"]}
        return {**costs, "rows": [row for rows in ranks.gather(scores) for row in rows]}

    def headline(result: Record) -> str:
        sdr = statistics.fmean(r["sdr"] for r in result["rows"] if r["source"] == config.sources[0])
        return f"{config.sources[0]} SDR {sdr:.2f} dB, {result['step_rate']:.2f} steps/s"

    runs = compare(config, ranks, train_and_score, headline)
    rows += [row for run in runs for row in run["rows"]]
    costs = first_runs(runs, ("values", "trunk_macs", "macs", "step_rate"))
    table = [{**row, **costs.get(row["arm"], {})} for row in mean_by_source(rows, config.sources)]
    if ranks.first:
        text = caption(config.sources, config.samples / RATE, len(segments), scored) + markdown(table, config.sources)
        write_atomically(config.output_dir / "table.md", text.encode(), durable=True)
        write_atomically(config.output_dir / "table.csv", as_csv(table), durable=True)
        write_atomically(config.output_dir / "segments.csv", as_csv(rows), durable=True)
        show(config, segments, rows)
    return table


def build(config: Config, arm: str, seed: int) -> Separator:
    """Make an arm's network; the same seed gives the same one."""
    torch.manual_seed(seed)
    return Separator(make_front_end(arm), len(config.sources), config.trunk, config.size, config.samples // HOP)


def train(config: Config, model: Separator, crops: Crops, run: Run) -> Record:
    """Train an arm's network, whose statistics have been measured, on crops; returns the last record."""
    ranks = run.ranks
    model.to(ranks.device)

    def batches_from(first: int) -> Iterator[Tensor]:
        return (crops.batch(step, config.batch_size, ranks.rank, ranks.world) for step in range(first, config.steps))

    return train_steps(
        model,
        torch.optim.Adam(parameter_groups(model, config.lr)),
        batches_from,
        lambda parallel, stems, _: loss_of(parallel, model, stems, config.loss),
        run,
        steps=config.steps,
        checkpoint_every=config.checkpoint_every,
    )


def score_untrained(config: Config, tracks: list[Track], segments: Sequence[Segment]) -> list[Record]:
    """Score what takes no training: trivial estimates, and the true sources through the lossy front ends."""
    gains = best_gains(Crops(tracks, config.samples, 0).batch(0, MEASURED_CROPS))
    scale = torch.tensor(gains)[:, None, None]
    fronts = {arm: make_front_end(arm) for arm in config.arms}
    lossy = {arm: front for arm, front in fronts.items() if front.fixed and front.linear}
    rows: list[Record] = []
    for track, start in segments:
        truth = track.crop(start, config.samples)
        mixture = truth.sum(0).expand_as(truth)
        estimates = {
            "silence": torch.zeros_like(truth),
            "mixture as estimate": mixture,
            "mixture, scaled": mixture * scale,
        }
        estimates |= {f"source through {arm}": front.synthesize(front.analyze(truth)) for arm, front in lossy.items()}
        for arm, estimate in estimates.items():
            rows += score_all(estimate, truth, config.sources, about(arm, "", (track, start)))
    return sorted(rows, key=lambda row: ("source through" in row["arm"], row["arm"]))  # stable within an arm


def about(arm: str, seed: int | str, segment: Segment) -> Record:
    """Say what a row of scores belongs to."""
    track, start = segment
    return {"arm": arm, "seed": seed, "track": track.name, "start": start / RATE}


def show(config: Config, segments: Sequence[Segment], rows: list[Record]) -> None:
    """Draw and write an excerpt of some seconds as every arm separates it, from its first seed."""
    silence = [(r["track"], r["start"]) for r in rows if r["arm"] == "silence"]  # a row for each source that is heard
    full = [(t, s) for t, s in segments if silence.count((t.name, s / RATE)) == len(config.sources)] or segments
    track, start = full[len(full) // 2]
    samples = max(config.samples, min(round(EXCERPT * RATE), track.length - start) // UNIT * UNIT)
    sounds: dict[str, Tensor] = {}
    for arm in config.arms:
        model = build(config, arm, 0)
        checkpoint = config.output_dir / f"{arm}_seed0" / "checkpoint.pt"
        load_checkpoint(checkpoint, {"model": model}, torch.device("cpu"))
        estimates, truth = next(separate(model, [(track, start)], samples, 1, torch.device("cpu")))
        sounds |= {"mixture": truth.sum(0)}
        sounds |= {f"{source}, truth": true for source, true in zip(config.sources, truth, strict=True)}
        sounds |= {f"{source}, {arm}": sound for source, sound in zip(config.sources, estimates, strict=True)}
    write_sounds({name.replace(", ", "_"): sound for name, sound in sounds.items()}, config.output_dir / "sounds", RATE)
    drawn = {name: sound for name, sound in sounds.items() if name.startswith(("mixture", config.sources[0]))}
    draw_spectrograms(drawn, config.output_dir / "spectrograms.png", RATE, f"{track.name}, from {start / RATE:.1f} s")


if __name__ == "__main__":
    config, _ = run_command(Config, main, __doc__)
    if Ranks.start().first:
        print((config.output_dir / "table.md").read_text("utf-8"))
        print(f"written to {config.output_dir}: table.md, table.csv, segments.csv, spectrograms.png, sounds")
