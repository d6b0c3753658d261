"""Training of codecs: crops, errors, schedules, averages, resuming, and the whole recipe made small."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor, nn

import walloc_transforms as wt
from recipes import train_codec
from recipes.codec import training as codec_training
from recipes.codec.crops import Crops
from recipes.codec.schedules import PaperSchedule
from recipes.codec.training import Trained, Training
from recipes.codec.validation import measure
from recipes.common.loop import train_steps
from recipes.common.ranks import Ranks
from recipes.common.runs import Run
from tests.helpers import PRODUCTS, assert_close_float32
from walloc_transforms.codec import Refiner

ROOT = Path(__file__).parents[2]
ALONE = Ranks(0, 1, torch.device("cpu"))
SMALL: dict[str, Any] = {
    "refiner_width": 16,
    "refiner_blocks": 1,
    "crop": 8,
    "batch_size": 2,
    "held_out": 0,
    "checkpoint_every": 1000,
}


def discs(seed: int, side: int = 96) -> Tensor:
    """Bright discs on dark ground, uint8: their edges can be guessed from what lies around."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    image = np.full((3, side, side), 40.0)
    for _ in range(12):
        (cy, cx), radius, color = random.uniform(0, side, 2), random.uniform(6, 20), random.uniform(60, 250, 3)
        image[:, (y - cy) ** 2 + (x - cx) ** 2 < radius**2] = color[:, None]
    return torch.from_numpy(image.round()).to(torch.uint8)


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    return [discs(seed) for seed in range(4)]


@pytest.fixture(scope="module")
def codec(images: list[Tensor]) -> wt.Codec:
    return wt.fit_codec(images, levels=2, channels=6, name="small", progress=False)


@pytest.fixture(scope="module")
def sounds() -> list[Tensor]:
    random = np.random.default_rng(0)
    waves = [torch.from_numpy(random.standard_normal((2, 6000)).cumsum(1)).float() for _ in range(3)]
    return [(x - x.mean()) / (x - x.mean()).abs().max() for x in waves]


def test_crops_repeat_and_are_shared_among_processes(images: list[Tensor], codec: wt.Codec) -> None:
    crops = Crops([*images, images[0][:, :20]], 8, codec, 3)
    assert len(crops.signals) == 4
    assert crops.margin == 3  # 12 samples of the two-level filters
    assert [crops.cut(step) for step in range(5)] == [0, 3, 3, 3, 0]
    assert crops.batch(0, 2).shape == (2, 3, 32, 32)
    assert crops.batch(1, 2).shape == (2, 3, 56, 56)
    whole = crops.batch(6, 4)
    assert torch.equal(whole, crops.batch(6, 4))
    assert not torch.equal(whole, crops.batch(7, 4))
    assert not torch.equal(whole, Crops(images, 8, codec, 4).batch(6, 4))
    for rank in range(2):
        assert torch.equal(whole[rank::2], crops.batch(6, 4, rank, 2))
    with pytest.raises(ValueError, match=r"none of 1 training signals has 56 samples per side"):
        Crops([images[0][:, :, :55]], 8, codec, 0)


def test_crops_are_turned_and_mirrored(codec: wt.Codec, sounds: list[Tensor]) -> None:
    image = torch.arange(3 * 56 * 56, dtype=torch.int32).view(3, 56, 56)
    seen = {
        tuple(crop[0, [0, 0, -1, -1], [0, -1, 0, -1]].tolist())
        for step in range(1, 40, 4)
        for crop in Crops([image], 8, codec, 0).batch(step, 4)
    }
    assert len(seen) == 8
    sound_codec = wt.fit_codec(sounds, levels=3, channels=4, progress=False)
    wave = sounds[0][:, : (8 + 2 * Crops(sounds, 8, sound_codec, 0).margin) * 8]
    crops = Crops([wave], 8, sound_codec, 0)
    seen = {tuple(crop[:, 0].tolist()) for step in range(1, 20, 4) for crop in crops.batch(step, 4)}
    left, right = wave[:, 0].tolist()
    assert seen == {(left, right), (right, left), (-left, -right), (-right, -left)}


def test_crops_favor_large_signals_by_the_root_of_their_size(codec: wt.Codec) -> None:
    """A signal of 9 times the size is drawn 3 times as often."""
    signals = [torch.zeros(3, 96, 96, dtype=torch.uint8), torch.ones(3, 288, 288, dtype=torch.uint8)]
    crops = Crops(signals, 8, codec, 0)
    share = float(torch.cat([crops.batch(step, 8) for step in range(1, 400, 4)]).double().mean())
    assert abs(share - 0.75) < 4 * (0.75 * 0.25 / 800) ** 0.5


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_the_error_is_that_of_the_signal(
    modality: str, images: list[Tensor], codec: wt.Codec, sounds: list[Tensor]
) -> None:
    """Weighted by the energies of the filters, packets of a biorthogonal transform tell it to a few per cent."""
    if modality == "audio":
        codec = wt.fit_codec(sounds, levels=4, channels=8, progress=False)
        x = torch.stack([sounds[0][:, :4096], sounds[1][:, :4096]])
    else:
        x = torch.stack(images)
    full = (255, 1) if modality == "image" else (1, 2)  # largest value, and width of the range of decoded values
    truth = x / full[0]
    model = Trained(
        codec,
        Refiner(codec.config.channels, codec.config.packets, 8, 1, codec.config.dims),
        projection=False,
        amp=False,
    )
    model.requires_grad_(False)
    errors, bits = model(x, 0, codec.config.channels)
    latents = codec.encode(x, rounding="round")
    true = ((codec.decode(latents, clamp=False) - truth) / full[1]).square().mean()
    assert errors.shape == (1,)
    assert float(errors[0]) == pytest.approx(float(true), rel=0.08)
    spreads = latents.transpose(0, 1).flatten(1).std(1)
    assert float(bits) == pytest.approx(float(spreads.log2().mean()), rel=1e-5)
    # With fewer channels it is that of the prefix.
    n = codec.config.channels // 2
    decoded = codec.prefix(n).decode(latents[:, :n], clamp=False)
    true = ((decoded - truth) / full[1]).square().mean()
    assert float(model(x, 0, n)[0]) == pytest.approx(float(true), rel=0.08)


def test_cut_leaves_the_margin_out(images: list[Tensor], codec: wt.Codec) -> None:
    model = Trained(codec, None, projection=False, amp=False)
    x = torch.stack(images[:1])
    latents, packets = model.prepare(x, 3)
    whole_latents, whole_packets = model.prepare(x, 0)
    assert torch.equal(latents, whole_latents[:, :, 3:-3, 3:-3])
    assert torch.equal(packets, whole_packets[:, 3:-3, 3:-3])


def test_scale_is_what_the_linear_decoder_leaves(images: list[Tensor], codec: wt.Codec) -> None:
    refiner = Refiner(6, 48, 8, 1, 2)
    model = Trained(codec, refiner, projection=False, amp=False)
    crops = Crops(images, 8, codec, 0)
    model.measure_scale(crops, 4)
    left = []
    for step in range(400, 432):
        x = crops.batch(step, 4)
        z = codec.encode(x, rounding="round")
        left.append((codec.analysis(x / 255 - 0.5) - codec.decoder(codec.expand(z))).transpose(0, 1).flatten(1))
    expected = torch.cat(left, 1).square().mean(1).sqrt()
    assert float((refiner.scale / expected).log().abs().mean()) < 0.2  # other crops, and these with margins


def run(codec: wt.Codec, signals: list[Tensor], folder: Path, resume: bool = False, **options: Any) -> Any:
    folder.mkdir(exist_ok=True)
    settings = Training(**{**SMALL, **options})
    return codec_training.train(
        codec, signals, settings, Run(folder, ALONE, resume), validate=lambda codec: measure(codec, [discs(9)])
    )


@pytest.mark.slow
def test_a_refiner_learns_and_leaves_the_rest_as_it_was(images: list[Tensor], codec: wt.Codec, tmp_path: Path) -> None:
    torch.manual_seed(123)
    trained, record = run(codec, images, tmp_path / "a", steps=150, lr=5e-3, ema=0.9, crop=10)
    assert record["psnr_refiner"] > record["psnr_linear"] + 0.1
    assert record["psnr_linear"] == pytest.approx(measure(codec, [discs(9)])["psnr_linear"])
    assert trained.fingerprint() == codec.fingerprint()
    assert torch.equal(trained.decoder.weight, codec.decoder.weight)
    assert torch.equal(trained.latent_std, codec.latent_std)
    assert codec.config.refiner_width == 0  # the codec that it began with
    assert not any(p.requires_grad for p in trained.parameters())
    # Another training begins with that refiner.
    again, _ = run(trained, images, tmp_path / "b", steps=1, lr=1e-6, ema=0.0)
    torch.testing.assert_close(again.load_refiner().head, trained.load_refiner().head, atol=1e-4, rtol=1e-2)


@pytest.mark.slow
def test_prefixes_must_be_trained(images: list[Tensor], codec: wt.Codec, tmp_path: Path) -> None:
    psnr = {}
    for share in (0.0, 1.0):
        trained, _ = run(codec, images, tmp_path / f"{share}", steps=80, lr=5e-3, ema=0.9, prefixes=share)
        psnr[share] = [measure(trained.prefix(n), images[:2])["psnr_refiner"] for n in (1, 3)]
    assert psnr[1.0][0] > psnr[0.0][0]
    assert psnr[1.0][1] > psnr[0.0][1]


@pytest.mark.slow
def test_projection_learns_with_noise(images: list[Tensor], codec: wt.Codec, tmp_path: Path) -> None:
    """From a turned and bent start, where the latents of the closed form are not."""
    bent = wt.Codec(codec.config)
    state = {name: value.clone() for name, value in codec.state_dict().items()}
    state["weight"] += torch.randn(state["weight"].shape, generator=torch.Generator().manual_seed(0)) * 3
    bent.load_state_dict(state)
    start = measure(bent, [discs(9)])
    trained, record = run(bent, images, tmp_path / "a", steps=120, projection=True, refiner_blocks=0, lr=1e-2, ema=0.9)
    assert record["psnr_linear"] > start["psnr_linear"] + 1
    assert set(record) == {"step", "loss", "step_rate", "bits", "psnr_linear"}
    _, cheaper = run(
        bent, images, tmp_path / "b", steps=120, projection=True, refiner_blocks=0, lr=1e-2, ema=0.9, rate_weight=12.0
    )
    assert cheaper["bits"] < 0.95 * record["bits"]
    latents = trained.encode(torch.stack(images), rounding="round").transpose(0, 1).flatten(1)
    torch.testing.assert_close(trained.latent_std, latents.std(1), rtol=0.3, atol=0.5)
    assert float((trained.latent_std / bent.latent_std - 1).abs().max()) > 0.05
    both, record = run(bent, images, tmp_path / "c", steps=120, projection=True, lr=5e-3, ema=0.9)
    assert record["psnr_refiner"] > start["psnr_linear"] + 1
    assert record["psnr_linear"] > start["psnr_linear"] + 1
    assert both.config.refiner_width == 16


def test_a_refiner_grows_by_blocks_that_do_nothing_at_first(
    images: list[Tensor], codec: wt.Codec, tmp_path: Path
) -> None:
    trained, _ = run(codec, images, tmp_path / "a", steps=10, lr=5e-3)
    still = {"steps": 1, "lr": 1e-9, "ema": 0.0, "weight_decay": 0.0}
    grown, _ = run(trained, images, tmp_path / "b", refiner_blocks=3, **still)
    assert (trained.config.refiner_blocks, grown.config.refiner_blocks) == (1, 3)
    latents = trained.encode(torch.stack(images), rounding="round")
    expected = trained.decode(latents, decoder="refiner")
    assert float((expected - trained.decode(latents)).abs().max()) > 1e-3
    assert_close_float32(grown.decode(latents, decoder="refiner"), expected, terms=PRODUCTS, factor=8)
    anew, _ = run(grown, images, tmp_path / "c", refiner_width=24, refiner_blocks=3, **still)
    torch.testing.assert_close(anew.decode(latents, decoder="refiner"), anew.decode(latents), atol=1e-4, rtol=0)


def test_weights_of_the_errors(images: list[Tensor], codec: wt.Codec, tmp_path: Path) -> None:
    """With all of the weight on the linear decoder the refiner learns nothing; with none on it, the rates decide."""
    options = {"steps": 30, "projection": True, "ema": 0.0, "lr": 5e-3}
    linear, _ = run(codec, images, tmp_path / "a", linear_weight=1.0, **options)
    assert not bool(linear.load_refiner().head.any())
    slow, _ = run(codec, images, tmp_path / "b", linear_weight=0.0, projection_lr=1e-4, **options)
    fast, _ = run(codec, images, tmp_path / "c", linear_weight=0.0, projection_lr=1e-2, **options)
    moved = [float((c.weight - codec.weight).norm() / codec.weight.norm()) for c in (slow, fast)]
    assert bool(slow.load_refiner().head.any())
    assert moved[0] < 0.01 < 0.03 < moved[1]


def test_the_projection_is_frozen_and_latents_are_rounded(
    images: list[Tensor], codec: wt.Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the last 4 of 10 steps, from the average of the first 6; the decoders are trained on."""
    seen: list[tuple[bool, dict[str, Tensor]]] = []
    prepare = Trained.prepare

    def spy(self: Trained, x: Tensor, cut: int) -> tuple[Tensor, Tensor]:
        latents, packets = prepare(self, x, cut)
        state = {name: value.clone() for name, value in self.state_dict().items()}
        seen.append((bool(torch.equal(latents, latents.round())), state))
        return latents, packets

    monkeypatch.setattr(Trained, "prepare", spy)
    options = {"steps": 10, "projection": True, "frozen_share": 0.4, "ema": 0.9, "prefixes": 0.0}
    trained, _ = run(codec, images, tmp_path / "a", **options)
    steps = seen[-10:]  # before these the refiner's scale was measured
    assert [rounded for rounded, _ in steps] == [False] * 6 + [True] * 4
    states = [state for _, state in steps]
    for name in ("weight", "bias", "latent_mean", "latent_std"):
        assert not torch.equal(states[4][f"codec.{name}"], states[5][f"codec.{name}"])
        for state in states[7:]:
            assert torch.equal(state[f"codec.{name}"], states[6][f"codec.{name}"])
        assert torch.equal(trained.state_dict()[name], states[6][f"codec.{name}"])
    for name in ("codec.decoder.weight", "refiner.stem.weight", "refiner.head"):
        assert not torch.equal(states[8][name], states[9][name])
    # What is frozen is the average: without one it is the last step's.
    seen.clear()
    run(codec, images, tmp_path / "b", **{**options, "ema": 0.0})
    assert not torch.equal(seen[-1][1]["codec.weight"], states[9]["codec.weight"])
    with pytest.raises(ValueError, match=r"goes with projection and the cosine schedule, got 0\.5 with"):
        Training(steps=10, frozen_share=0.5)


def test_crops_grow_and_batches_shrink(
    images: list[Tensor], codec: wt.Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    batch = Crops.batch

    def spy(self: Crops, step: int, *args: int) -> Tensor:
        x = batch(self, step, *args)
        inner = x.shape[-1] // self.stride - 2 * self.cut(step)
        shapes.append((len(x), inner))
        return x

    monkeypatch.setattr(Crops, "batch", spy)
    run(codec, images, tmp_path / "a", steps=4, crop=8, first_crop=4)
    assert shapes[-4:] == [(8, 4), (5, 5), (4, 6), (3, 7)]


@pytest.mark.parametrize(
    "options",
    [{}, {"projection": True, "schedule": "paper"}, {"projection": True, "frozen_share": 3 / 8, "first_crop": 4}],
    ids=str,
)
def test_resumed_training_is_bit_equal(
    options: dict[str, Any], images: list[Tensor], codec: wt.Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**options, "steps": 8, "checkpoint_every": 4}
    whole, record = run(codec, images, tmp_path / "a", **options)
    batch = Crops.batch

    def until(self: Crops, step: int, *args: int) -> Tensor:
        if step == 6:
            raise KeyboardInterrupt
        return batch(self, step, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Crops, "batch", until)
        with pytest.raises(KeyboardInterrupt):
            run(codec, images, tmp_path / "b", **options)
    resumed, again = run(codec, images, tmp_path / "b", resume=True, **options)
    assert record["loss"] == again["loss"]
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    untouched, _ = run(codec, images, tmp_path / "b", resume=True, **options)  # nothing is left to do
    assert torch.equal(untouched.load_refiner().head, whole.load_refiner().head)


def test_the_average_is_kept(tmp_path: Path) -> None:
    """Of a weight that goes 1, 2, 3, ...: gradient -1 and a rate that is constant."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    seen: list[float] = []

    def validate(average: nn.Linear) -> dict[str, float]:
        seen.append(float(average.weight.detach()))
        return {"weight": seen[-1]}

    class Constant:
        def step(self, loss: float) -> None:
            pass

        def state_dict(self) -> dict[str, Any]:
            return {}

    train_steps(
        model,
        torch.optim.SGD(model.parameters(), 1.0),
        lambda _: (torch.ones(1, 1) for _ in range(6)),
        lambda model, x, _: -model(x).sum(),
        Run(tmp_path, ALONE, resume=False),
        steps=6,
        checkpoint_every=3,
        ema=0.3,
        clip=None,
        schedule=lambda _: Constant(),
        validate=validate,
    )
    average, expected = 0.0, []
    for step in range(1, 7):
        decay = min(0.3, step / (step + 10))
        average = decay * average + (1 - decay) * step
        expected.append(average)
    assert seen == pytest.approx([expected[2], expected[5]])
    assert float(model.weight.detach()) == pytest.approx(expected[5])
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["weight"] for r in records] == seen


def test_gradients_are_clipped(tmp_path: Path) -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    train_steps(
        model,
        torch.optim.SGD(model.parameters(), 1.0),
        lambda _: (torch.ones(1, 1) for _ in range(1)),
        lambda model, x, _: -100 * model(x).sum(),
        Run(tmp_path, ALONE, resume=False),
        steps=1,
        checkpoint_every=1,
        clip=0.5,
    )
    assert float(model.weight.detach()) == pytest.approx(0.5, rel=1e-4)


def test_paper_schedule() -> None:
    """Windows of 128 steps: a rise over 5 of them from a 300th, log-cosine; then 2 % less after 65 without progress."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [weight], "lr": 3e-3}, {"params": [], "lr": 3.0}])
    schedule = PaperSchedule(optimizer, 6400)
    rates = []
    for _ in range(128 * 5):
        rates.append(optimizer.param_groups[0]["lr"])
        schedule.step(1.0)
    expected = [10 ** (-5 + 0.5 * math.log10(300) * (1 - math.cos(math.pi * i / 5))) for i in range(5)]
    assert rates[::128] == pytest.approx(expected)
    assert rates[127::128] == pytest.approx(expected)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([3e-3, 3.0])
    for _ in range(128 * 65):
        schedule.step(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(3e-3)
    state = schedule.state_dict()
    other = PaperSchedule(optimizer, 6400)
    optimizer.param_groups[0]["lr"] = 3e-3
    other.load_state_dict(state)
    for _ in range(128):
        other.step(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.98 * 3e-3)


def test_settings_are_checked() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"steps": 5, "refiner_blocks": 0}, "nothing to train"),
        ({"crop": 0}, "at least 1"),
        ({"ema": 1.0}, "0 <= ema < 1"),
        ({"prefixes": 1.5}, "prefixes"),
        ({"linear_weight": -0.1}, "linear_weight"),
        ({"rate_weight": -1.0}, "rate_weight must be at least 0"),
        ({"projection_lr": 0.0}, "projection_lr above 0"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            Training(**options)


# the recipe


def save_discs(folder: Path, count: int = 5) -> str:
    folder.mkdir()
    for i in range(count):
        Image.fromarray(discs(i).permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    return str(folder)


def test_fitted_and_trained(tmp_path: Path) -> None:
    settings = Training(**{**SMALL, "steps": 6, "checkpoint_every": 3, "held_out": 2})
    config = train_codec.Config(
        data=(save_discs(tmp_path / "photos"),),
        levels=2,
        channels=6,
        name="mine",
        output_dir=tmp_path / "out",
        training=settings,
    )
    codec = train_codec.main(config)
    loaded = wt.load_codec(tmp_path / "out")
    assert (loaded.config.name, loaded.config.refiner_width, loaded.config.refiner_blocks) == ("mine", 16, 1)
    latents = codec.encode(torch.stack([discs(7)]))
    torch.testing.assert_close(
        loaded.decode(latents, decoder="refiner"), codec.decode(latents, decoder="refiner"), atol=1e-3, rtol=0
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Fitted in closed form in" in card
    assert "trained for 6 steps" in card
    assert "On 2 held-out signals: PSNR linear" in card
    with Image.open(tmp_path / "out" / "validation.png") as sheet:
        assert min(sheet.size) > 200
    records = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [3, 6]
    # Going on where nothing is left to do gives the same codec, without another fit.
    config.resume = True
    assert torch.equal(train_codec.main(config).load_refiner().head, codec.load_refiner().head)
    config.training.steps = 12
    with pytest.raises(ValueError, match=r"out holds a run with training\.steps 6, and is to be resumed with 12"):
        train_codec.main(config)


def test_a_refiner_for_an_embedded_codec(tmp_path: Path) -> None:
    config = train_codec.Config(
        codec="rgb_16x",
        data=(save_discs(tmp_path / "photos"),),
        name="rgb_16x",
        output_dir=tmp_path / "out",
        training=Training(**{**SMALL, "steps": 1, "crop": 4}),
    )
    train_codec.main(config)
    own, embedded = wt.load_codec(tmp_path / "out"), wt.load_codec("rgb_16x")
    assert own.fingerprint() == embedded.fingerprint()
    assert own.config.source == embedded.config.source
    folders = (tmp_path / "out", ROOT / "walloc_transforms" / "weights" / "rgb_16x")
    weights = [folder / "weights.safetensors" for folder in folders]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert "Begun as `rgb_16x`, then trained for 1 steps" in (tmp_path / "out" / "README.md").read_text()


def test_sound(tmp_path: Path, sounds: list[Tensor]) -> None:
    (tmp_path / "music").mkdir()
    for i, sound in enumerate(sounds):
        soundfile.write(tmp_path / "music" / f"{i}.wav", sound.T.numpy(), 8000)
    config = train_codec.Config(
        data=(str(tmp_path / "music"),),
        modality="audio",
        levels=4,
        channels=8,
        sample_rate=8000,
        output_dir=tmp_path / "out",
        training=Training(**{**SMALL, "steps": 4, "held_out": 1}),
    )
    codec = train_codec.main(config)
    assert codec.config.refiner_blocks == 1
    assert "PSNR refiner" in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out" / "validation.png").exists()


def test_what_cannot_be_trained(tmp_path: Path, codec: wt.Codec) -> None:
    plain = train_codec.Config(codec="rgb_16x", output_dir=tmp_path / "x")
    with pytest.raises(ValueError, match=r"nothing to do without --training.steps"):
        train_codec.main(plain)
    unknown = wt.Codec(dataclasses.replace(codec.config, statistics=False))
    unknown.save_pretrained(tmp_path / "unknown")
    with pytest.raises(ValueError, match="statistics of its latents"):
        train_codec.main(dataclasses.replace(plain, codec=str(tmp_path / "unknown"), training=Training(steps=1)))
    assert not (tmp_path / "x").exists()
    few = train_codec.Config(
        data=(save_discs(tmp_path / "few", 2),),
        levels=2,
        channels=6,
        output_dir=tmp_path / "x",
        training=Training(steps=1, held_out=2),
    )
    with pytest.raises(ValueError, match="held_out 2 leaves none of 2 signals to train on"):
        train_codec.main(few)
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    """torchrun on gloo trains nearly the same codec as one process on the same batches."""
    data = save_discs(tmp_path / "photos", 3)
    options = [
        "--data",
        data,
        "--levels",
        "2",
        "--channels",
        "6",
        "--training.steps",
        "3",
        "--training.crop",
        "8",
        "--training.refiner-width",
        "16",
        "--training.refiner-blocks",
        "1",
        "--training.no-amp",
        "--training.held-out",
        "1",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for start, name in ((run, "two"), ([sys.executable], "one")):
        subprocess.run(
            [*start, "-m", "recipes.train_codec", *options, "--output-dir", str(tmp_path / name)],
            check=True,
            env=environment,
            cwd=ROOT,
            capture_output=True,
            timeout=300,
        )
    one, two = (wt.load_codec(tmp_path / name).load_refiner() for name in ("one", "two"))
    torch.testing.assert_close(one.scale, two.scale)
    # The logarithm is of the errors of each process, so their mean is not quite that of the whole batch.
    assert torch.nn.functional.cosine_similarity(one.head.flatten(), two.head.flatten(), 0) > 0.9


def test_held_out_signals_are_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Tensor] = []
    validated: list[Tensor] = []
    train = codec_training.train

    def spy(codec: wt.Codec, signals: list[Tensor], *args: Any, **options: Any) -> Any:
        trained.extend(signals)
        return train(codec, signals, *args, **options)

    def measure_too(codec: wt.Codec, signals: list[Tensor], sheet: Path | None = None) -> dict[str, float]:
        validated.extend(signals)
        return measure(codec, signals, sheet)

    monkeypatch.setattr(train_codec, "train", spy)
    monkeypatch.setattr(train_codec, "measure", measure_too)
    settings = Training(**{**SMALL, "steps": 1, "held_out": 2})
    train_codec.main(
        train_codec.Config(
            data=(save_discs(tmp_path / "photos"),),
            levels=2,
            channels=6,
            output_dir=tmp_path / "out",
            training=settings,
        )
    )
    assert [[int(torch.equal(x, discs(i))) for i in range(5)] for x in validated] == [[1, 0, 0, 0, 0], [0, 0, 1, 0, 0]]
    assert [[int(torch.equal(x, discs(i))) for i in (1, 3, 4)] for x in trained] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_amp_is_bfloat16(images: list[Tensor], codec: wt.Codec) -> None:
    refiner = Refiner(6, 48, 16, 1, 2).requires_grad_(False)
    nn.init.normal_(refiner.head, generator=torch.Generator().manual_seed(0))
    errors = [Trained(codec, refiner, projection=False, amp=amp)(torch.stack(images), 0, 6)[0] for amp in (True, False)]
    assert not torch.equal(*errors)
    torch.testing.assert_close(*errors, rtol=0.02, atol=0)


def test_train_codec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_discs(tmp_path / "photos", 5)
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    config = train_codec.Config(
        data=(str(tmp_path / "photos"),), output_dir=tmp_path / "codec", name="mine", channels=6, levels=2
    )
    codec = train_codec.main(config)
    assert "1 unreadable files skipped" in capsys.readouterr().out
    loaded = wt.load_codec(tmp_path / "codec")
    assert (loaded.config.name, loaded.config.channels) == ("mine", 6)
    assert torch.equal(loaded.weight, codec.weight)
    card = (tmp_path / "codec" / "README.md").read_text()
    assert "5 images" in card
    assert "python -m recipes.train_codec" in card


def test_train_codec_of_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "music" / "album"
    folder.mkdir(parents=True)
    for i, name in enumerate(("a.wav", "b.wav", "test_c.wav")):
        soundfile.write(folder / name, np.random.default_rng(i).standard_normal((9000, 2)).cumsum(0) / 300 + 0.2, 8000)
    (folder / "broken.ogg").write_bytes(b"no sound")
    config = train_codec.Config(
        data=(str(tmp_path / "music"),),
        exclude=("test_*",),
        modality="audio",
        channels=8,
        levels=4,
        relative=True,
        sample_rate=8000,
        output_dir=tmp_path / "codec",
    )
    codec = train_codec.main(config)
    assert "1 unreadable files skipped" in capsys.readouterr().out
    assert (codec.config.modality, codec.config.sample_rate) == ("audio", 8000)
    assert "2 pieces (own music), at 8000 Hz" in (tmp_path / "codec" / "README.md").read_text()
    waves = [torch.from_numpy(soundfile.read(folder / name, dtype="float32")[0].T) for name in ("a.wav", "b.wav")]
    waves = [(x - x.mean()) / (x - x.mean()).abs().max() for x in waves]
    expected = wt.fit_codec(waves, levels=4, channels=8, relative=True, progress=False)
    torch.testing.assert_close(codec.weight, expected.weight, atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match="demo stands alone"):
        train_codec.main(train_codec.Config(data=("demo", "x")))


@pytest.mark.slow
def test_train_codec_on_generated_music(tmp_path: Path) -> None:
    config = train_codec.Config(
        modality="audio", channels=4, levels=5, output_dir=tmp_path / "codec", sample_rate=16000
    )
    assert train_codec.main(config).config.source == "generated music"
