"""Source separation: front ends, network, scores, training that resumes, and the whole recipe made small."""

import csv
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import yaml
from PIL import Image
from torch import Tensor

import walloc_transforms as wt
from recipes import source_separation
from recipes.common.demo_music import demo_track
from recipes.common.ranks import Ranks
from recipes.common.runs import Run, lr_factor
from recipes.common.tables import as_csv
from recipes.separation.front_ends import ARMS, HOP, Latents, Resampled, make_front_end
from recipes.separation.network import NetworkSize, Separator, TransformerTrunk, macs_per_second
from recipes.separation.report import draw_spectrograms, spectrogram, write_sounds
from recipes.separation.scores import best_gains, markdown, mean_by_source, score, score_all
from recipes.separation.tracks import RATE, SOURCES, Crops, Track
from recipes.separation.training import loss_of, parameter_groups

ROOT = Path(__file__).parents[2]
SAMPLES = 16 * HOP
SMALL = NetworkSize(mask_features=512, width=16, hidden=16, layers=2, stacks=1)
VALUES = {"resample_5x": 108, "resample_20x": 27, "conv": 512, "stft": 514, "walloc_5x": 108, "walloc_20x": 27}


@pytest.fixture(scope="module")
def music() -> Tensor:
    """Vocals and accompaniment, ``(2, 2, 3 s)``."""
    stems = demo_track(1, 3)
    return torch.stack([stems["vocals"], stems["drums"] + stems["bass"] + stems["other"]])


@pytest.fixture
def tracks(music: Tensor) -> list[Track]:
    return [Track("tune", [], music.shape[-1], music)]


def build(arm: str, sources: int = 2, trunk: str = "conv_tasnet", size: NetworkSize = SMALL) -> Separator:
    torch.manual_seed(0)
    return Separator(make_front_end(arm), sources, trunk, size, SAMPLES // HOP)


def ratio(truth: Tensor, estimate: Tensor) -> float:
    return 10 * math.log10(float(truth.square().sum() / (truth - estimate).square().sum()))


# front ends


@pytest.mark.parametrize("arm", ARMS)
def test_front_ends_carry_as_many_values_as_they_say(arm: str, music: Tensor) -> None:
    front = make_front_end(arm)
    assert (front.values, front.fixed) == (VALUES[arm], arm != "conv")
    carrier = front.analyze(music[..., :SAMPLES])
    frames = SAMPLES // HOP + (arm == "stft")
    assert carrier.shape == (2, front.values * front.group, frames // front.group)
    assert front.features(carrier).shape == carrier.shape
    assert front.features(carrier).dtype == torch.float32
    assert front.synthesize(carrier).shape == (2, 2, SAMPLES)


@pytest.mark.parametrize("arm", ARMS)
def test_front_ends_are_linear(arm: str, music: Tensor) -> None:
    """Or else masked sources would not add up to the masked mixture. Silence is nothing."""
    front = make_front_end(arm).requires_grad_(False)
    x = 0.3 * music[..., 40000 : 40000 + SAMPLES]
    carriers = front.analyze(x)
    mixture = front.analyze(x.sum(0, keepdim=True))
    assert float((carriers.sum(0) - mixture).abs().max()) < 1e-4 * float(mixture.abs().max())
    assert float(front.analyze(torch.zeros(1, 2, SAMPLES)).abs().max()) < 1e-5 * float(mixture.abs().max())
    waveforms = front.synthesize(carriers)
    assert torch.allclose(waveforms.sum(0), front.synthesize(mixture)[0], atol=1e-4)
    assert not front.synthesize(torch.zeros_like(carriers)).any()


@pytest.mark.parametrize(
    ("arm", "least"),
    [("conv", 100), ("stft", 100), ("resample_5x", 35), ("resample_20x", 15), ("walloc_5x", 35), ("walloc_20x", 10)],
)
def test_masks_of_ones_give_what_the_front_end_carries(arm: str, least: float, music: Tensor) -> None:
    voice = music[:1, :, 30000 : 30000 + 20 * SAMPLES]
    model = build(arm)
    model.measure(voice)
    carrier = model.front.analyze(voice)
    ones = torch.ones(1, 3, model.read.out_channels // model.group, carrier.shape[-1] * model.group)
    with torch.no_grad():
        estimates = model.front.synthesize(model.apply_masks(carrier, ones).flatten(0, 1))
        half = model.front.synthesize(model.apply_masks(carrier, ones / 2).flatten(0, 1))
    assert torch.allclose(estimates, model.front.synthesize(carrier).expand(3, -1, -1), atol=2e-5)
    assert torch.allclose(half, estimates / 2, atol=2e-5)
    assert ratio(voice[0], estimates[0]) > least


@pytest.mark.parametrize("values", [108, 27])
def test_resampled_frames_are_the_resampled_waveform(values: int) -> None:
    """A tone that the low rate holds comes through; one above its Nyquist frequency does not."""
    seconds = torch.arange(64 * HOP) / RATE
    front = Resampled(values)
    for hertz, passes in ((400, True), (values / 512 * RATE / 2 * 1.15, False)):
        tone = torch.sin(2 * math.pi * hertz * seconds).expand(1, 2, -1)
        back = front.synthesize(front.analyze(tone))
        middle = slice(16 * HOP, 48 * HOP)
        assert float((back - passes * tone)[..., middle].abs().max()) < 2e-2


def test_latents_decode_as_the_codec_does(music: Tensor) -> None:
    codec = wt.load_codec("stereo_5x")
    front = Latents(codec)
    x = music[:, :, : 20 * SAMPLES]
    latents = codec.encode(x)
    expected = codec.decode(latents, clamp=False)
    carrier = front.analyze(x)
    # The carrier leaves out what silence gives, the mean of the music the codec was fitted on.
    assert torch.allclose(front.synthesize(carrier), expected, atol=1e-3)
    assert torch.allclose(front.features(carrier), latents, atol=1e-2)


def test_unknown_arm() -> None:
    with pytest.raises(ValueError, match="unknown arm 'walloc': expected one of resample_5x"):
        make_front_end("walloc")


# network


@pytest.mark.parametrize("trunk", ["conv_tasnet", "transformer"])
@pytest.mark.parametrize("arm", ARMS)
def test_gradients_reach_every_trained_parameter_and_no_codec(arm: str, trunk: str, music: Tensor) -> None:
    model = build(arm, trunk=trunk)
    stems = music[None, ..., 40000 : 40000 + SAMPLES]
    model.measure(stems.sum(1))
    codec = [p for name, p in model.named_parameters() if name.startswith("front.codec.")]
    before = [p.clone() for p in codec]
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert bool(codec) is arm.startswith("walloc")
    assert not any(p.requires_grad for p in codec)
    optimizer = torch.optim.Adam(trained.values(), 1e-3)
    estimates, carriers = model(stems.sum(1))
    assert estimates.shape == stems.shape
    assert carriers.shape[:2] == (1, 2)
    (estimates - stems).square().sum().backward()
    optimizer.step()
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.any()] == []
    assert all(torch.equal(a, b) for a, b in zip(before, codec, strict=True))


def test_statistics_bring_every_arm_to_one_scale(music: Tensor) -> None:
    for arm in ARMS:
        model = build(arm)
        x = music[..., : 30 * SAMPLES]
        model.measure(x)
        with torch.no_grad():
            features = (model.front.features(model.front.analyze(x)) - model.mean) / model.scale
        assert float(features.mean((0, 2)).abs().max()) < 1e-2
        spread = features.std((0, 2))
        assert float(spread.max()) == pytest.approx(1, abs=1e-2)
        assert float(spread.median()) == pytest.approx(1, abs=1e-2)


def test_silence_in_a_channel_does_not_divide_by_zero() -> None:
    for arm in ARMS:
        model = build(arm)
        model.measure(torch.randn(1, 2, SAMPLES) * torch.tensor([[0.1], [0.0]]))
        estimates, _ = model(torch.randn(1, 2, SAMPLES) * 0.1)
        assert bool(torch.isfinite(estimates).all())


def test_macs() -> None:
    counts = {arm: macs_per_second(build(arm), SAMPLES / RATE, RATE) for arm in ARMS}
    frames = RATE / HOP
    trunk = 512 * 16 + 2 * (16 * 16 * 2 + 16 * 3) + 16 * 16 + 16 * 1024  # entry, blocks, a residual, masks
    for arm in ARMS:
        if arm == "stft":
            assert counts[arm][0] == pytest.approx(frames * trunk, rel=0.01)
        else:
            assert counts[arm][0] == pytest.approx(frames * trunk)
        assert counts[arm][1] > counts[arm][0]
    matrices = 108 * 512 * (1 + 1 + 2)
    decoder = 108 * 512 * 9 * 2
    assert counts["walloc_5x"][1] == pytest.approx(frames * (trunk + matrices + decoder), rel=0.25)  # and the encoder


def test_transformer_takes_about_as_many_multiply_adds() -> None:
    for size in (NetworkSize(), NetworkSize(width=128, hidden=256, stacks=3)):
        front = make_front_end("resample_5x")
        models = [Separator(front, 2, trunk, size, 256) for trunk in ("conv_tasnet", "transformer")]
        convolutions, attention = (macs_per_second(model, 256 * HOP / RATE, RATE)[0] for model in models)
        assert 0.7 < attention / convolutions < 1.4


def test_transformer_knows_the_order_of_frames() -> None:
    trunk = TransformerTrunk(8, 2, NetworkSize(width=16), 10).eval()
    x = torch.randn(1, 8, 10)
    masks = trunk(x)
    assert masks.shape == (1, 2, 8, 10)
    assert not torch.allclose(trunk(x.flip(-1)).flip(-1), masks, atol=1e-3)


def test_network_refuses() -> None:
    with pytest.raises(ValueError, match="100 mask features cannot carry the 108 values"):
        build("walloc_5x", size=NetworkSize(mask_features=100))
    with pytest.raises(ValueError, match="trunk must be conv_tasnet or transformer, got 'lstm'"):
        build("walloc_5x", trunk="lstm")


# scores


def test_scores_by_hand() -> None:
    truth = torch.tensor([[0.5, -0.5, 0.5, -0.5], [0.1, 0.1, 0.1, 0.1]])
    estimate = truth + torch.tensor([[0.1, 0.1, -0.1, -0.1], [0.1, -0.1, 0.1, -0.1]])
    error = 8 * 0.01
    got = score(estimate, truth)
    assert got["sdr"] == pytest.approx(10 * math.log10((4 * 0.25 + 4 * 0.01) / error))
    assert got["psnr"] == pytest.approx(-10 * math.log10(error / 8 / 4))
    alpha = float((estimate * truth).sum() / truth.square().sum())
    scaled = alpha * truth
    assert got["si_sdr"] == pytest.approx(ratio(scaled, estimate), abs=1e-4)
    assert score(0.1 * estimate, truth)["si_sdr"] == pytest.approx(got["si_sdr"], abs=1e-4)
    assert score(0.1 * estimate, truth)["sdr"] < got["sdr"]


def test_scores_of_trivial_estimates() -> None:
    """Silence has an SDR of 0 dB, and a PSNR above that of the mixture: what the paper's figures rewarded."""
    voice, rest = 0.05 * torch.randn(2, 2, 1000)
    silence, mixture = score(torch.zeros(2, 1000), voice), score(voice + rest, voice)
    assert silence["sdr"] == pytest.approx(0, abs=1e-9)
    assert math.isnan(silence["si_sdr"])
    assert mixture["sdr"] == pytest.approx(ratio(voice, voice + rest), abs=1e-4)
    louder = score(voice + 2 * rest, voice)
    assert silence["psnr"] > louder["psnr"]
    assert score(voice, voice)["psnr"] == pytest.approx(120 + 10 * math.log10(4))


def test_scores_refuse_and_skip_silence() -> None:
    with pytest.raises(ValueError, match="the truth is silent"):
        score(torch.ones(2, 8), torch.full((2, 8), 0.9e-3))
    with pytest.raises(ValueError, match=r"shape \(2, 8\), the truth \(2, 9\)"):
        score(torch.ones(2, 8), torch.ones(2, 9))
    truth = torch.stack([torch.zeros(2, 8), torch.ones(2, 8)])
    rows = score_all(truth, truth, ("vocals", "drums"), {"arm": "x", "seed": 0})
    assert [(row["arm"], row["source"]) for row in rows] == [("x", "drums")]


def test_best_gains() -> None:
    stems = torch.randn(3, 2, 2, 500) * torch.tensor([1.0, 2.0])[None, :, None, None]
    gains = best_gains(stems)
    mixture = stems.sum(1)
    for i, gain in enumerate(gains):
        errors = [float((stems[:, i] - g * mixture).square().sum()) for g in (gain, gain + 0.01, gain - 0.01)]
        assert errors[0] == min(errors)
    assert gains == pytest.approx([0.2, 0.8], abs=0.1)
    assert best_gains(torch.zeros(1, 2, 2, 5)) == [0, 0]


def test_table_averages_over_segments_then_seeds() -> None:
    values = {0: (1.0, 3.0), 1: (5.0, 7.0)}
    rows = [
        {"arm": "a", "seed": seed, "source": "vocals", "sdr": v, "si_sdr": v, "psnr": v}
        for seed, vs in values.items()
        for v in vs
    ]
    rows += [{"arm": "silence", "seed": "", "source": "vocals", "sdr": 0.0, "si_sdr": math.nan, "psnr": 30.0}]
    learned, silence = mean_by_source(rows, ("vocals",))
    assert (learned["seeds"], learned["sdr vocals"]) == (2, 4)
    assert learned["sdr vocals sd"] == pytest.approx(8**0.5)
    assert math.isnan(silence["sdr vocals sd"])
    learned |= {"values": 108, "trunk_macs": 2e6, "macs": 3e6, "step_rate": 4.0}
    text = markdown([silence, learned], ("vocals",))
    assert text.splitlines()[2] == "| silence | - | - | - | - | - | 0.0 | - | 30.0 |"
    assert text.splitlines()[3] == "| a | 108 | 2 | 3 | 4.0 | 2 | 4.0 ± 2.8 | 4.0 ± 2.8 | 4.0 ± 2.8 |"
    assert len({line.count("|") for line in text.splitlines()}) == 1
    assert as_csv([{"arm": "a"}, {"arm": "b", "x": 1}]) == b"arm,x\na,\nb,1\n"


# report


def test_spectrogram_shows_a_tone_at_its_level() -> None:
    tone = torch.sin(2 * math.pi * 40 / 2048 * torch.arange(16384)).expand(2, -1)
    power = spectrogram(tone)
    assert int(power[:, 16].argmax()) == 40
    assert float(power[40, 16]) == pytest.approx(0, abs=0.1)
    assert float(power[300, 16]) < -90


def test_sounds_are_clipped_not_wrapped(tmp_path: Path) -> None:
    write_sounds({"loud": torch.tensor([[1.5, -1.5, 0.25]] * 2)}, tmp_path / "sounds", 44100)
    read, rate = soundfile.read(tmp_path / "sounds" / "loud.wav", dtype="int16")
    assert (rate, read[:, 0].tolist()) == (44100, [32767, -32768, 8192])


def test_picture_of_one_sound(tmp_path: Path) -> None:
    draw_spectrograms({"a": torch.zeros(2, 4096)}, tmp_path / "a.png", 44100, "title")
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 200


# training


def fit(arm: str, crops: Crops, folder: Path, resume: bool = False, **options: Any) -> tuple[Separator, dict[str, Any]]:
    model = build(arm)
    model.measure(crops.batch(0, 4).sum(1))
    folder.mkdir(exist_ok=True)
    config = source_separation.Config(**{"steps": 5, "batch_size": 2, "lr": 3e-3, "checkpoint_every": 2, **options})
    record = source_separation.train(config, model, crops, Run(folder, Ranks(0, 1, torch.device("cpu")), resume))
    return model, record


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
@pytest.mark.parametrize("arm", ["conv", "walloc_20x"])
def test_resumed_training_is_bit_equal(arm: str, tracks: list[Track], tmp_path: Path) -> None:
    crops = Crops(tracks, SAMPLES, 0)
    whole, record = fit(arm, crops, tmp_path / "a")

    class Interrupted(Crops):
        def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Tensor:
            if step == 3:
                raise KeyboardInterrupt
            return super().batch(step, batch_size, rank, world)

    with pytest.raises(KeyboardInterrupt):
        fit(arm, Interrupted(tracks, SAMPLES, 0), tmp_path / "b")
    assert json.loads((tmp_path / "b" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 2
    resumed, again = fit(arm, crops, tmp_path / "b", resume=True)
    assert again["loss"] == record["loss"]
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not list(tmp_path.rglob("*.partial"))
    untouched, _ = fit(arm, crops, tmp_path / "b", resume=True)  # nothing is left to do
    assert torch.equal(untouched.read.weight, whole.read.weight)


def test_training_lowers_the_loss(tracks: list[Track], tmp_path: Path) -> None:
    crops = Crops(tracks, SAMPLES, 0)
    fit("stft", crops, tmp_path, steps=40, checkpoint_every=10)
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in log] == [10, 20, 30, 40]
    assert log[-1]["loss"] < log[0]["loss"]


def test_losses_by_hand(tracks: list[Track]) -> None:
    stems = Crops(tracks, SAMPLES, 0).batch(0, 2)
    for arm in ("walloc_5x", "stft", "resample_20x"):
        model = build(arm)
        model.measure(stems.sum(1))
        estimates, carriers = model(stems.sum(1))
        waveform, latent = (loss_of(model, model, stems, kind) for kind in ("waveform", "latent"))
        assert waveform.item() == pytest.approx((estimates - stems).abs().mean().item())
        truth = torch.stack([model.front.analyze(crop) for crop in stems])
        expected = ((carriers - truth).abs() / model.carrier_scale).mean()
        assert latent.item() == pytest.approx(expected.item(), rel=1e-5)
        latent.backward()
        assert model.read.weight.grad is not None


@pytest.mark.parametrize("arm", ARMS)
def test_wide_maps_learn_more_slowly(arm: str) -> None:
    model = build(arm)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in parameter_groups(model, 2.0) for p in group["params"]}
    assert sorted(rates) == sorted(name for name, p in model.named_parameters() if p.requires_grad)
    inputs = VALUES[arm] * model.group
    assert rates["read.weight"] == 2 * min(1, 128 / inputs)
    assert rates["read.bias"] == rates["trunk.output_conv.weight"] == 2
    if arm != "stft":
        assert (rates["lift.weight"], rates["lower.weight"]) == (rates["read.weight"], 2 * 128 / 512 / model.group)
    if arm == "conv":
        assert rates["front.analysis"] == rates["front.synthesis"] == 0.5


def test_learning_rate() -> None:
    factors = [lr_factor(step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == factors[10] == 1
    assert factors[-1] < 0.001
    assert [lr_factor(0, steps) for steps in (1, 2)] == [1, 1]


# recipe


def tiny(folder: Path, **options: Any) -> source_separation.Config:
    return source_separation.Config(
        **{"steps": 2, "batch_size": 2, "segment_seconds": 0.25, "size": SMALL, "output_dir": folder, **options}
    )


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """Three tracks; the first, for testing, begins with a second without vocals."""
    for i in range(3):
        stems = demo_track(i, 2)
        stems["vocals"][:, :RATE] *= i > 0
        for name, stem in stems.items():
            (tmp_path / "songs" / f"song{i}").mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / "songs" / f"song{i}" / f"{name}.wav", stem.T.numpy(), RATE, subtype="FLOAT")
    return tmp_path / "songs"


@pytest.mark.slow
def test_recipe(songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[Tensor]] = {}
    measure = Separator.measure

    def watched(model: Separator, waveforms: Tensor) -> None:
        seen.setdefault(type(model.front).__name__ + str(model.front.values), []).append(waveforms)
        measure(model, waveforms)

    monkeypatch.setattr(Separator, "measure", watched)
    out = tmp_path / "out"
    arms = ("resample_20x", "conv", "stft", "walloc_5x")
    config = tiny(out, data=str(songs), arms=arms, seeds=2)
    table = source_separation.main(config)
    trivial = ["mixture as estimate", "mixture, scaled", "silence"]
    through = ["source through resample_20x", "source through walloc_5x"]
    assert [r["arm"] for r in table] == [*trivial, *through, *arms]

    crops = list(seen.values())
    assert len(crops) == len(arms)
    assert all(torch.equal(a[i], crops[0][i]) for a in crops for i in range(2))
    assert not torch.equal(crops[0][0], crops[0][1])

    with (out / "segments.csv").open() as file:
        rows = list(csv.DictReader(file))
    starts = {(r["arm"], r["seed"], r["source"]): [] for r in rows}
    for r in rows:
        assert r["track"] == "song0"
        starts[r["arm"], r["seed"], r["source"]].append(float(r["start"]))
    assert len(starts) == 2 * (len(trivial) + len(through) + 2 * len(arms))
    for (_, _, source), places in starts.items():
        assert places == starts["silence", "", source]
    assert min(starts["silence", "", "vocals"]) > 0.7 > min(starts["silence", "", "accompaniment"])
    assert {float(r["sdr"]) for r in rows if r["arm"] == "silence"} == {0.0}
    own = [float(r["sdr"]) for r in rows if (r["arm"], r["seed"], r["source"]) == ("conv", "1", "vocals")]
    mean = [float(r["sdr"]) for r in rows if (r["arm"], r["source"]) == ("conv", "vocals")]
    assert own
    row = next(r for r in table if r["arm"] == "conv")
    assert row["sdr vocals"] == pytest.approx(sum(mean) / len(mean))
    assert (row["values"], row["seeds"]) == (512, 2)

    names = {"mixture", *(f"{s}_{a}" for s in SOURCES[0] for a in ("truth", *arms))}
    assert {f.stem for f in (out / "sounds").iterdir()} == names
    assert soundfile.info(out / "sounds" / "vocals_walloc_5x.wav").subtype == "PCM_16"
    text = (out / "table.md").read_text()
    assert "7 in all, 4 with vocals, 7 with accompaniment" in text
    assert text.count("\n| ") == 2 + len(table)
    with Image.open(out / "spectrograms.png") as picture:
        assert min(picture.size) > 300
    assert yaml.safe_load((out / "config.yaml").read_text())["size"]["width"] == 16
    folder = out / "walloc_5x_seed1"
    assert {f.name for f in folder.iterdir()} == {"metrics.jsonl", "checkpoint.pt", "result.json"}

    before = (out / "segments.csv").read_bytes()
    (folder / "result.json").unlink()  # scored again, from the checkpoint
    config.resume = True
    monkeypatch.setattr(source_separation, "loss_of", None)  # but not trained
    source_separation.main(config)
    assert (out / "segments.csv").read_bytes() == before
    config.steps += 1
    with pytest.raises(ValueError, match="out holds a run with steps "):
        source_separation.main(config)


@pytest.mark.slow
def test_recipe_with_four_stems_and_a_latent_loss(songs: Path, tmp_path: Path) -> None:
    config = tiny(
        tmp_path / "out",
        data=str(songs),
        sources=SOURCES[1],
        arms=("walloc_20x", "stft"),
        loss="latent",
        trunk="transformer",
    )
    table = source_separation.main(config)
    assert table[-1]["arm"] == "stft"
    assert math.isfinite(table[-1]["sdr drums"])
    assert len(list((tmp_path / "out" / "sounds").iterdir())) == 1 + 4 * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ("stft", "mp3")}, "unknown arm 'mp3'"),
        ({"seeds": 0}, "at least one arm and one seed"),
        ({"arms": ()}, "at least one arm and one seed"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"segment_seconds": 0.01}, "at least 0.046, got 0.01"),
        ({"loss": "latent"}, "conv learns its own"),
        ({"data": "demo", "sources": ("drums",)}, "sources must be"),
        ({"size": NetworkSize(mask_features=256)}, "256 mask features cannot carry the 512 values"),
    ],
)
def test_recipe_refuses_at_once(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source_separation.main(tiny(tmp_path / "x", **options))
    assert not (tmp_path / "x").exists()


def test_recipe_needs_every_source_in_the_test_tracks(songs: Path, tmp_path: Path) -> None:
    soundfile.write(songs / "song0" / "vocals.wav", torch.zeros(2 * RATE, 2).numpy(), RATE)
    with pytest.raises(ValueError, match=r"silent in all 7 test segments: scored were \{'vocals': 0"):
        source_separation.main(tiny(tmp_path / "out", data=str(songs), arms=("stft",)))


@pytest.mark.slow
def test_two_processes(songs: Path, tmp_path: Path) -> None:
    """torchrun on gloo: one table, with every segment once."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    command = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(port),
        "-m",
        "recipes.source_separation",
        "--data",
        str(songs),
        "--arms",
        "walloc_20x",
        "--steps",
        "2",
        "--batch-size",
        "2",
        "--segment-seconds",
        "0.25",
        "--size.width",
        "16",
        "--size.hidden",
        "16",
        "--output-dir",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("written to") == 1
    with (tmp_path / "out" / "segments.csv").open() as file:
        rows = list(csv.DictReader(file))
    parts = [[(r["start"], r["source"]) for r in rows if r["arm"] == arm] for arm in ("silence", "walloc_20x")]
    assert sorted(parts[0]) == sorted(parts[1])
    assert len(parts[0]) == len(set(parts[0])) == 11
