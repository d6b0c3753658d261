"""Evaluation of image codecs: figures against what they are by hand, the measuring errors of the paper, rivals."""

import csv
import dataclasses
import math
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics.functional.image.dists as torchmetrics_dists
import torchvision
from PIL import Image, ImageCms, ImageFile, WebPImagePlugin
from torch import Tensor, nn
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

import walloc_transforms as wt
from recipes import evaluate_codec
from recipes.common.photographs import ImageFiles, demo_photographs
from recipes.common.quality import Networks, load_networks, measure_quality, ms_ssim, psnr, to_8_bits
from recipes.common.tables import Record
from recipes.evaluation import image_formats, image_measures
from recipes.evaluation.image_formats import FORMATS, Format, LossyImage, resize
from recipes.evaluation.image_measures import (
    MOSAIC,
    Photo,
    measure,
    measure_format,
    measure_prefixes,
    measure_resizing,
    prefix_lengths,
)
from recipes.evaluation.images import evaluate, mean_over_images
from recipes.evaluation.means import mean_curve
from recipes.evaluation.nearest import Coded
from tests.helpers import reference_decode, reference_encode
from walloc_transforms.files import save_latents

HAS_AVIF = not FORMATS["AVIF"].missing()


def photograph(height: int, width: int, number: int = 1) -> Tensor:
    """A demo photograph, reduced to a size, uint8."""
    return torch.from_numpy(np.array(demo_photographs()[number].resize((width, height)))).permute(2, 0, 1)


@pytest.fixture(scope="module")
def photo() -> Photo:
    """Of odd sides, no multiples of any stride."""
    return Photo("cat", photograph(97, 121))


@pytest.fixture(scope="module")
def fine() -> wt.Codec:
    """All packets of one level: what it loses is by rounding alone."""
    return wt.fit_codec([photograph(96, 120)], levels=1, channels=12, name="fine", progress=False)


@pytest.fixture(scope="module")
def coarse() -> wt.Codec:
    """12 channels for 64 pixels."""
    return wt.fit_codec([photograph(240, 320)], levels=3, channels=12, name="coarse", progress=False)


def figures_of(photo: Photo, codec: wt.Codec, coder: str = MOSAIC) -> Record:
    """Figures of a codec that has one decoder."""
    ((_, record, _),), _ = measure(photo, codec, coder)
    return record


# figures


def test_psnr_by_hand() -> None:
    image = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    assert psnr(image, image + 51) == pytest.approx(20 * math.log10(5))
    one = image.clone()
    one[0, 0, 0] = 90
    assert psnr(image, one) == pytest.approx(10 * math.log10(255**2 * 48 / 100))
    assert psnr(one, one) == math.inf


@pytest.mark.parametrize("figure", [psnr, ms_ssim])
def test_nothing_is_cropped_or_filled_up_to_fit(figure: Callable) -> None:
    """As the paper's comparison did with an autoencoder whose images came back smaller."""
    image = torch.zeros(3, 180, 180, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"has shape \(3, 180, 176\), the original \(3, 180, 180\)"):
        figure(image, image[..., :176])
    with pytest.raises(TypeError, match=r"expected uint8 images or float waveforms, got torch.uint8 and torch.float32"):
        figure(image, image / 255)


def test_ms_ssim_needs_a_side_of_176() -> None:
    image = photograph(176, 200)
    noisy = (image.float() + 20 * torch.randn(image.shape)).clamp(0, 255).to(torch.uint8)
    assert ms_ssim(image, image) == pytest.approx(1)
    assert 0.8 < ms_ssim(image, noisy) < 0.99  # 1.0 with the constants of a data range of 255
    assert math.isnan(ms_ssim(image[:, :175], noisy[:, :175]))
    assert set(measure_quality(image[:, :175], noisy[:, :175], Networks())) == {"psnr"}
    assert set(measure_quality(image, noisy, Networks())) == {"psnr", "ms_ssim"}


def test_distances_of_networks_become_db() -> None:
    seen: list[tuple[float, float]] = []

    def distance(decoded: Tensor, image: Tensor) -> Tensor:
        seen.append((float(decoded.max()), float(image.max())))
        return (decoded - image).abs().mean()

    networks = Networks({"lpips": distance, "dists": lambda *_: torch.tensor(0.01)})
    image = torch.full((3, 40, 40), 204, dtype=torch.uint8)
    figures = measure_quality(image, image + 51, networks)
    assert figures["lpips_db"] == pytest.approx(-10 * math.log10(0.2))
    assert figures["dists_db"] == pytest.approx(20)
    assert seen == [(1.0, pytest.approx(0.8))]
    assert measure_quality(image, image, networks)["lpips_db"] == math.inf
    assert set(measure_quality(image[:, :31], image[:, :31], networks)) == {"psnr"}


@pytest.fixture
def random_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let random weights stand for those that would be downloaded."""

    def vgg16(**_: object) -> nn.Module:
        model = nn.Module()
        model.features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
        return model

    def get_state_dict(_: object, **options: object) -> dict:
        assert options["weights_only"]
        return {}

    monkeypatch.setattr(torchvision.models, "vgg16", vgg16)
    monkeypatch.setattr(torchmetrics_dists, "vgg16", vgg16)
    monkeypatch.setattr(torchvision.models.VGG16_Weights, "get_state_dict", get_state_dict)


@pytest.mark.slow
@pytest.mark.usefixtures("random_vgg")
def test_networks_get_the_range_that_they_expect() -> None:
    torch.manual_seed(3)
    networks = load_networks()
    assert not networks.missing
    image = photograph(48, 64)[None] / 255
    noisy = (image + 0.1 * torch.randn(image.shape)).clamp(0, 1)
    for name, distance in networks.distances.items():
        assert float(distance(image, image)) == pytest.approx(0, abs=1e-5)
        values = [float(distance(noisy, image)) for _ in range(2)]
        assert values[0] == pytest.approx(values[1]), name  # nothing is accumulated
        assert 0 < values[0] < 1
        assert float(distance((noisy + image) / 2, image)) < values[0]
    torch.manual_seed(3)  # gives the same network again, which takes [-1, 1]
    expected = learned_perceptual_image_patch_similarity(2 * noisy - 1, 2 * image - 1, net_type="vgg")
    assert float(networks.distances["lpips"](noisy, image)) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("Name or service not known"), TimeoutError("timed out"), RuntimeError("hash")]
)
def test_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    import socket

    limits: list[float | None] = []

    def fail(*_: object, **__: object) -> dict:
        limits.append(socket.getdefaulttimeout())
        raise error

    monkeypatch.setattr(torchvision.models.VGG16_Weights, "get_state_dict", fail)
    networks = load_networks(timeout=3)
    assert not networks.distances
    assert set(networks.missing) == {"lpips", "dists"}
    assert str(error) in networks.missing["lpips"]
    assert (limits, socket.getdefaulttimeout()) == ([3], None)  # no silent server is waited for


# measuring errors of the paper's comparison, and others like them


def test_eight_bits_are_rounded_not_truncated() -> None:
    steps = torch.arange(256).repeat(3, 1, 1)
    for off in (-0.4, 0.0, 0.4):
        assert torch.equal(to_8_bits((steps + off) / 255), steps.to(torch.uint8))
    smooth = torch.rand(3, 64, 64)
    truncated = (smooth * 255).to(torch.uint8)
    errors = [float((x / 255 - smooth).square().mean()) for x in (truncated, to_8_bits(smooth))]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)  # 6 dB of what 8 bits allow


@pytest.mark.slow
def test_the_result_is_rounded(photo: Photo, fine: wt.Codec) -> None:
    ((_, _, decoded),), latents = measure(photo, fine, MOSAIC)
    exact = wt.functional.decode_image(latents, fine, size=photo.size) * 255
    assert float((decoded - exact).abs().max()) <= 0.5 + 1e-3
    truncated = psnr(photo.image, exact.to(torch.uint8))
    assert truncated < psnr(photo.image, decoded) - 0.3


def test_odd_sizes_are_cut_where_they_were_extended(photo: Photo, fine: wt.Codec) -> None:
    ((_, record, decoded),), latents = measure(photo, fine, MOSAIC)
    assert latents.shape == (12, 49, 61)
    even = figures_of(Photo("even", photo.image[:, :96, :120]), fine)
    assert record["psnr"] == pytest.approx(even["psnr"], abs=0.3)
    assert record["psnr"] > 40
    whole = to_8_bits(wt.functional.decode_image(latents.as_subclass(Tensor), fine))  # which knows no size
    assert whole.shape[-2:] == (98, 122)
    shifted = psnr(photo.image, whole[:, 1:, 1:])
    filled = decoded.clone()
    filled[:, -2:] = 0
    assert max(shifted, psnr(photo.image, filled)) < record["psnr"] - 10


def test_the_input_range_is_the_codecs(photo: Photo, fine: wt.Codec) -> None:
    """By the definition of the codec, in float64, on pixels in [0, 1]; half that range gives other figures."""
    x = photo.image[None, :, :96, :120] / 255
    expected, halved = (
        to_8_bits(reference_decode(fine, reference_encode(fine, gain * x).round())[0] / gain) for gain in (1.0, 0.5)
    )
    ((_, record, decoded),), _ = measure(Photo("even", photo.image[:, :96, :120]), fine, MOSAIC)
    assert record["psnr"] == pytest.approx(psnr(photo.image[:, :96, :120], expected), abs=0.02)
    assert float((decoded.int() - expected.int()).abs().max()) <= 1
    assert psnr(photo.image[:, :96, :120], halved) < record["psnr"] - 1


def test_the_rate_is_that_of_the_file(photo: Photo, coarse: wt.Codec, tmp_path: Path) -> None:
    latents = wt.functional.encode_image(photo.image, coarse, quantize=True)
    mosaic = tmp_path / "mosaic.webp"
    wt.functional.latents_to_pil(latents)[0].save(mosaic, lossless=True)
    for coder, length in (
        (MOSAIC, mosaic.stat().st_size),
        ("zlib", save_latents(tmp_path / "z.wlc", latents, coarse, size=(97, 121), coder="zlib")),
        ("ans", save_latents(tmp_path / "a.wlc", latents, coarse, size=(97, 121), coder="ans")),
    ):
        record = figures_of(photo, coarse, coder)
        assert record["bytes"] == length
        assert record["bpp"] == pytest.approx(8 * length / (97 * 121))  # of the image as it is, not as extended
        assert record["psnr"] == pytest.approx(figures_of(photo, coarse)["psnr"])


def test_a_file_that_loses_latents_is_no_result(
    photo: Photo, coarse: wt.Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = image_measures.read_file
    monkeypatch.setattr(image_measures, "read_file", lambda *args: read(*args) // 2)
    with pytest.raises(RuntimeError, match="the file of cat did not give the latents back"):
        measure(photo, coarse, MOSAIC)


def slow(call: Callable, seconds: float = 0.05) -> Callable:
    def slowed(*args: Any, **options: Any) -> Any:
        time.sleep(seconds)
        return call(*args, **options)

    return slowed


@pytest.mark.parametrize(
    ("place", "name", "slowed"),
    [
        (wt.functional, "encode_image", "encode"),
        (image_measures, "write_file", "encode"),
        (image_measures, "read_file", "decode"),
        (wt.functional, "decode_image", "decode"),
        (image_measures, "to_8_bits", "decode"),
    ],
)
def test_times_contain_the_coding(
    photo: Photo, coarse: wt.Codec, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, slowed: str
) -> None:
    monkeypatch.setattr(place, name, slow(getattr(place, name), 0.2))
    record = figures_of(photo, coarse)
    seconds = {part: photo.pixels / 1e6 / record[f"{part}_mps"] for part in ("encode", "decode")}
    assert seconds.pop(slowed) > 0.2
    assert max(seconds.values()) < 0.2


def test_figures_and_times_are_of_one_pass(photo: Photo, coarse: wt.Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which the paper's were not: images were padded to 16 for the one and to 8 for the other."""
    calls: list[dict] = []
    encode = wt.functional.encode_image

    def spy(*args: Any, **options: Any) -> Tensor:
        calls.append(options)
        return encode(*args, **options)

    monkeypatch.setattr(wt.functional, "encode_image", spy)
    results = evaluate([("cat", image_formats.to_pil(photo.image))], [coarse], MOSAIC, ())
    assert [options.get("quantize", False) for options in calls] == [False, True]  # one to warm up
    assert len(results.records) == 2


@pytest.mark.parametrize("name", FORMATS)
def test_decoding_a_format_decodes(photo: Photo, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The paper timed the opening of a WebP file, which reads its header."""
    if FORMATS[name].missing():
        pytest.skip("not in this Pillow")
    lossy = LossyImage(photo.image, FORMATS[name])
    coded = lossy.encode(80)
    decoded, _ = lossy.decode(coded)
    assert psnr(photo.image, decoded) > 25
    for place in (ImageFile.ImageFile, WebPImagePlugin.WebPImageFile):
        monkeypatch.setattr(place, "load", slow(place.load))
    assert lossy.decode(coded)[1] > 0.05
    with pytest.raises((OSError, SyntaxError)):
        lossy.decode(Coded(coded.content[: len(coded.content) // 2], 80, 0))


def test_means_are_of_db() -> None:
    def record(psnr: float, bpp: float, **figures: object) -> dict:
        return {
            "codec": "c",
            "method": "c",
            "decoder": "linear",
            "reduction": 4.0,
            "psnr": psnr,
            "bpp": bpp,
            "encode_mps": 1.0,
            **figures,
        }

    other = {"codec": "c", "method": "JPEG", "decoder": "", "note": "refused"}
    row, none = mean_over_images([record(20, 1, ms_ssim=0.5), other, record(40, 3)])
    assert row["psnr"] == 30  # the PSNR of the mean error is 23
    assert row["compression_ratio"] == 12  # 24 over the mean rate; the mean ratio is 16
    assert (row["images"], row["ms_ssim"], row["note"]) == (2, 0.5, "MS-SSIM of 1 of 2")
    assert math.isnan(row["lpips_db"])
    assert (none["images"], none["note"]) == (0, "refused (1 of 1)")
    again = {**record(50, 1), "decoder": "refiner"}
    assert [(r["decoder"], r["psnr"]) for r in mean_over_images([record(20, 1), again])] == [
        ("linear", 20),
        ("refiner", 50),
    ]
    curve = [{"image": i, "codec": "c", "channels": 3, "psnr": p} for i, p in enumerate((20.0, 40.0))]
    assert mean_curve(curve, ("codec", "channels"), "image") == [
        {"codec": "c", "channels": 3, "images": 2, "psnr": 30.0}
    ]


# rivals


def test_resizing(photo: Photo) -> None:
    record, decoded = measure_resizing(photo, 16)
    picture = image_formats.to_pil(photo.image)
    bicubic = Image.Resampling.BICUBIC
    expected = picture.resize((30, 24), bicubic).resize((121, 97), bicubic)
    assert np.array_equal(decoded.permute(1, 2, 0).numpy(), np.asarray(expected))
    assert "bpp" not in record
    assert torch.equal(resize(photo.image, 1)[0], photo.image)


@pytest.mark.parametrize("name", FORMATS)
def test_the_nearest_quality_is_found(photo: Photo, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if FORMATS[name].missing():
        pytest.skip("not in this Pillow")
    small = Photo("small", photo.image[:, :48, :56])
    lossy = LossyImage(small.image, FORMATS[name])
    sizes = [len(lossy.encode(quality).content) for quality in range(101)]
    for size in (sizes[20] + 3, sizes[60], sizes[91] - 5):
        found = LossyImage(small.image, FORMATS[name])
        coded = found.nearest(size)
        assert abs(len(coded.content) - size) <= min(abs(s - size) for s in sizes) + 0.01 * size  # not all monotonous
        assert len(found.coded) <= 12
    assert lossy.nearest(10).setting == 0
    assert lossy.nearest(10**6).setting == 100
    record, decoded = measure_format(small, name, 10)
    assert record["note"] == "lowest rate"
    assert decoded is not None
    assert record["psnr"] == psnr(small.image, decoded)
    assert record["bytes"] == sizes[0]
    assert measure_format(small, name, 10**6)[0]["note"] == "highest rate"
    assert measure_format(small, name, sizes[60])[0]["note"] == ""
    assert measure_format(small, name, sizes[0] - 1)[0]["note"] == ""  # near enough
    monkeypatch.setattr(Image.Image, "save", slow(Image.Image.save))
    speed = measure_format(Photo("new", small.image), name, 10)[0]["encode_mps"]
    assert small.pixels / 1e6 / speed > 0.05
    monkeypatch.setattr(LossyImage, "encode", lambda *_: (_ for _ in ()).throw(ValueError("too large")))
    assert measure_format(Photo("new", small.image), name, 99) == ({"note": "refused: too large"}, None)


def test_rivals_carry_no_metadata(photo: Photo, coarse: wt.Codec) -> None:
    """A color profile in the source would be written into the files of the rivals, and into none of ours."""
    source = image_formats.to_pil(photo.image)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source.info["icc_profile"] = profile
    results = evaluate([("cat", source)], [coarse], MOSAIC, ("JPEG", "WebP"))
    for record in results.records[2:]:
        bare = LossyImage(photo.image, FORMATS[record["method"]]).encode(record["quality"])
        assert record["bytes"] == len(bare.content)


def test_a_format_that_pillow_lacks(photo: Photo, coarse: wt.Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(image_measures.FORMATS, "JPEG", Format("NONE"))
    results = evaluate([("cat", image_formats.to_pil(photo.image))], [coarse], MOSAIC, ("JPEG",))
    assert results.records[-1]["note"] == f"not in Pillow {Image.__version__}"
    assert not results.rates


def test_formats_use_as_many_threads_as_torch(photo: Photo, monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[dict] = []

    def save(*_: object, **given: object) -> None:
        options.append(given)

    monkeypatch.setattr(Image.Image, "save", save)
    for name in FORMATS:
        LossyImage(photo.image, FORMATS[name]).encode(50)
    assert [o.get("max_threads") for o in options] == [None, None, 1]
    assert [o.get("subsampling") for o in options] == ["4:2:0", None, "4:2:0"]


# prefixes


def test_prefixes() -> None:
    assert prefix_lengths(48) == [3, 6, 12, 18, 24, 30, 36, 42, 48]
    assert [prefix_lengths(n) for n in (12, 3, 2, 13)] == [[3, 6, 12], [3], [2], [3, 6, 12, 13]]


@pytest.mark.parametrize("coder", [MOSAIC, "zlib"])
def test_the_last_prefix_is_the_codec(photo: Photo, coarse: wt.Codec, coder: str) -> None:
    ((_, whole, _),), latents = measure(photo, coarse, coder)
    rows = measure_prefixes(photo, coarse, latents, coder)
    assert list(rows[0]) == ["codec", "channels", "reduction", "bytes", "bpp", "psnr", "resize_psnr"]
    assert [(r["channels"], r["reduction"]) for r in rows] == [(3, 64), (6, 32), (12, 16)]
    assert (rows[-1]["psnr"], rows[-1]["bytes"]) == (whole["psnr"], whole["bytes"])
    assert rows[0]["psnr"] < rows[1]["psnr"] < rows[2]["psnr"]
    assert rows[0]["bytes"] < rows[1]["bytes"] < rows[2]["bytes"]
    assert rows[2]["resize_psnr"] == measure_resizing(photo, 16)[0]["psnr"]


# the recipe


def test_names_tell_folders_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    monkeypatch.chdir(tmp_path)
    files = ImageFiles([Path("a/0.png"), tmp_path / "b" / "0.png"])
    assert [name for name, _ in files.named()] == ["a/0.png", "b/0.png"]
    assert len(list(files)) == 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, one too small for any figure, and one that is no image."""
    (tmp_path / "images").mkdir()
    for i, size in enumerate([(180, 178), (97, 121)]):
        demo_photographs()[i].resize(size).save(tmp_path / "images" / f"{i}.png")
    Image.new("RGB", (30, 7)).save(tmp_path / "images" / "2.png")
    (tmp_path / "images" / "3.png").write_bytes(b"no image")
    Image.fromarray(np.full((16, 16), 60000, np.uint16)).save(tmp_path / "images" / "deep.png")
    return tmp_path / "images"


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8") as source:
        return list(csv.DictReader(source))


@pytest.mark.slow
def test_evaluate_codec(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = Networks(missing=dict.fromkeys(("lpips", "dists"), "example.org: no connection"))
    monkeypatch.setattr(evaluate_codec, "load_networks", lambda: missing)
    for name in ("rgb_16x", "rgb_4x"):
        codec = wt.load_codec(name)
        codec.config = dataclasses.replace(codec.config, refiner_width=0, refiner_blocks=0)
        codec.save_pretrained(tmp_path / name)
    config = evaluate_codec.Config(
        data=str(folder),
        output_dir=tmp_path / "out",
        formats=("JPEG", "WebP"),
        codecs=(str(tmp_path / "rgb_16x"), str(tmp_path / "rgb_4x")),
        networks=True,
    )
    rows = evaluate_codec.main(config)
    said = capsys.readouterr().out
    assert "2.png: a side is shorter than 8 pixels" in said
    assert "3.png: cannot identify" in said
    assert "deep.png: mode I;16 is not of 8 bits" in said
    assert "3 images skipped" in said
    names = {"table.md", "images.csv", "prefix.csv", "rates.csv", "rd.png", "sheet.png"}
    assert {f.name for f in config.output_dir.iterdir()} == {"config.yaml", *names}
    methods = ["resize", "JPEG", "WebP"]
    assert [(r["codec"], r["method"]) for r in rows] == [(c, m) for c in ("rgb_16x", "rgb_4x") for m in (c, *methods)]
    assert {r["images"] for r in rows} == {2}
    records = rows_of(config.output_dir / "images.csv")
    assert [(r["image"], r["width"], r["height"]) for r in records[::8]] == [
        ("0.png", "180", "178"),
        ("1.png", "97", "121"),
    ]
    assert [r["method"] for r in records] == [r["method"] for r in rows] * 2
    assert [r["decoder"] for r in records[:2]] == ["linear", ""]
    assert [bool(r["ms_ssim"]) for r in records] == [True] * 8 + [False] * 8  # a dash, never a crash

    with Image.open(folder / "1.png") as image:
        pixels = np.asarray(image.convert("RGB"), dtype=float)
        z = wt.WallocEncode("rgb_4x", quantize=True)(image.convert("RGB"))
    decoded = np.round(wt.functional.decode_image(z, "rgb_4x", size=(121, 97)).permute(1, 2, 0).numpy() * 255)
    expected = 10 * math.log10(255**2 / np.mean((decoded - pixels) ** 2))
    record = next(r for r in records if (r["image"], r["method"]) == ("1.png", "rgb_4x"))
    assert float(record["psnr"]) == pytest.approx(expected, abs=1e-3)

    both = [float(r["psnr"]) for r in records if r["method"] == "rgb_4x"]
    assert rows[4]["psnr"] == pytest.approx(sum(both) / 2)
    assert rows[4]["psnr"] > rows[0]["psnr"] > rows[1]["psnr"]
    for r in rows[2:4] + rows[6:]:
        assert r["bpp"] == pytest.approx(rows[0 if r["codec"] == "rgb_16x" else 4]["bpp"], rel=0.05)
    curve = rows_of(config.output_dir / "prefix.csv")
    assert [*curve[0]] == ["codec", "channels", "images", "reduction", "bytes", "bpp", "psnr", "ms_ssim", "resize_psnr"]
    assert [int(r["channels"]) for r in curve] == [3, 6, 12, *prefix_lengths(48)]
    assert float(curve[-1]["psnr"]) == pytest.approx(rows[4]["psnr"])
    rates = rows_of(config.output_dir / "rates.csv")
    assert len(rates) == 2 * len(image_measures.RATE_QUALITIES)
    table = (config.output_dir / "table.md").read_text()
    assert "3 images skipped" in table
    assert "1 thread," in table
    assert "No weights for LPIPS and DISTS: example.org: no connection" in table
    assert "refiner" not in table
    ours = next(line for line in table.splitlines() if line.startswith("| `rgb_4x` | linear | 2 | 4 |"))
    assert f"| {rows[4]['bpp']:.3f} | {rows[4]['psnr']:.2f} | {rows[4]['ms_ssim']:.4f} | no weights | no weights |" in (
        ours
    )
    assert "MS-SSIM of 1 of 2" in ours
    for name in ("rd.png", "sheet.png"):
        with Image.open(config.output_dir / name) as figure:
            assert min(figure.size) > 300


def test_images_too_small_for_ms_ssim_and_no_rivals(tmp_path: Path) -> None:
    """No figure but PSNR, nothing on the sheet, a codec without prefixes, whole ``.wlc`` files."""
    (tmp_path / "images").mkdir()
    demo_photographs()[0].resize((64, 48)).save(tmp_path / "images" / "0.png")
    wt.Codec(wt.CodecConfig("staged", "image", 3, 12, 3, stages=2)).save_pretrained(tmp_path / "staged")
    config = evaluate_codec.Config(
        data=str(tmp_path / "images"),
        codecs=(str(tmp_path / "staged"),),
        formats=(),
        sheet_rows=0,
        coder="zlib",
        output_dir=tmp_path / "out",
    )
    rows = evaluate_codec.main(config)
    assert [r["method"] for r in rows] == ["staged", "resize"]
    assert {f.name for f in config.output_dir.iterdir()} == {"config.yaml", "table.md", "images.csv", "rd.png"}
    table = (config.output_dir / "table.md").read_text()
    assert "`.wlc` files by coder zlib" in table
    assert "no weights" not in table
    assert table.count("| - | - | - |") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"codecs": ("gray",)}, ValueError, "codec 'gray' has 1 signal channels: expected RGB"),
        ({"codecs": ("rgb_4x", "rgb_4x")}, ValueError, "codecs of different names"),
        ({"codecs": ("deep",)}, ValueError, "latents of codec 'deep' have 10 bits, which no mosaic holds"),
        ({"coder": "rar"}, ValueError, "unknown coder or format 'rar': expected one of mosaic, zlib, webp"),
        ({"formats": ("Opus",)}, ValueError, "unknown coder or format 'Opus': expected one of JPEG, WebP, AVIF"),
        ({"include": ("kodim*",)}, FileNotFoundError, r"none of the 5 files matches 'kodim\*'"),
        ({"include": ("2.png", "3.png")}, ValueError, "no image in .* could be measured"),
        ({"data": "nowhere"}, FileNotFoundError, "there is no folder 'nowhere'"),
    ],
)
def test_bad_options(folder: Path, tmp_path: Path, options: dict, error: type[Exception], message: str) -> None:
    wt.Codec(wt.CodecConfig("gray", "image", 1, 8, 3)).save_pretrained(tmp_path / "gray")
    wt.Codec(wt.CodecConfig("deep", "image", 3, 8, 3, latent_bits=10)).save_pretrained(tmp_path / "deep")
    options = {"data": str(folder), "output_dir": tmp_path / "out", **options}
    names = options.get("codecs", ("rgb_16x",))
    options["codecs"] = tuple(str(tmp_path / c) if (tmp_path / c).exists() else c for c in names)
    with pytest.raises(error, match=message):
        evaluate_codec.main(evaluate_codec.Config(**options))
    assert not (tmp_path / "out").exists()
