import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch

import walloc_transforms as wt
from tests.helpers import give_refiner, make_codec
from tests.reference import save_checkpoint
from walloc_transforms.zoo import zoo

WEIGHTS = Path(zoo.__file__).parents[1] / "weights"


@pytest.fixture(autouse=True)
def metadata(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the hub says about any file."""
    told = SimpleNamespace(size=1000)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: told)
    return told


def test_embedded_codecs() -> None:
    names = ["rgb_16x", "rgb_4x", "rgb_16x_viewing", "rgb_4x_viewing", "stereo_20x", "stereo_5x"]
    assert wt.available_codecs() == names
    assert {folder.parent.name for folder in WEIGHTS.glob("*/config.json")} == {*names}
    reductions = [16, 4, 16, 4, 512 / 27, 512 / 108]
    for name, reduction in zip(names, reductions, strict=True):
        info, config = wt.codec_info(name), wt.load_codec(name).config
        assert (info.name, info.dimensionality_reduction) == (name, reduction)
        geometry = ("image", 3, 3, 8, 0) if name.startswith("rgb") else ("audio", 2, 8, 256, 44100)
        assert (info.modality, info.signal_channels, info.levels, info.stride, info.sample_rate) == geometry
        assert info.decoders == ("linear", "refiner")
        assert (info.channels, info.source) == (config.channels, config.source)
        assert info.purpose.startswith("pictures to look at" if "viewing" in name else "the default")


def test_info_reads_no_weights(tmp_path: Path) -> None:
    make_codec().save_pretrained(tmp_path / "plain")
    give_refiner(make_codec()).save_pretrained(tmp_path / "refined")
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    info = wt.codec_info(tmp_path / "plain")
    assert (info.decoders, info.purpose) == (("linear",), "")
    assert wt.codec_info(str(tmp_path / "refined")).decoders == ("linear", "refiner")
    with pytest.raises(FileNotFoundError, match=r"it has no config\.json"):
        wt.codec_info(tmp_path)
    with pytest.raises(ValueError, match=r"unknown codec 'rgb_16': did you mean 'rgb_16x'\? Embedded codecs are"):
        wt.codec_info("rgb_16")
    with pytest.raises(ValueError, match="unknown codec 'owner/name'"):  # no server is asked
        wt.codec_info("owner/name")


def test_embedded_weights_are_small() -> None:
    files = [*WEIGHTS.rglob("*.safetensors")]
    linear = [f.stat().st_size for f in files if f.name == "weights.safetensors"]
    assert max(linear) < 500_000
    assert sum(linear) < 800_000
    assert max(f.stat().st_size for f in files) < 6_000_000


def discs() -> torch.Tensor:
    """An image that no codec was trained on, ``(3, 128, 160)`` in [0, 1]: the edges of discs."""
    y, x = np.mgrid[:128, :160]
    image = np.full((3, 128, 160), 60.0)
    for cy, cx, radius, color in (
        (40, 50, 30, (200, 80, 60)),
        (90, 110, 25, (70, 160, 220)),
        (70, 60, 12, (20, 20, 20)),
    ):
        image[:, (y - cy) ** 2 + (x - cx) ** 2 < radius**2] = np.array(color)[:, None]
    return torch.from_numpy(image / 255).float()


def test_embedded_refiners_are_nearer_to_the_signal() -> None:
    """On signals that they have not seen: the edges of discs, and a chord."""
    for name in wt.available_codecs():
        codec = wt.load_codec(name)
        if codec.config.modality == "image":
            signal = discs()
        else:
            time = torch.arange(44100) / 44100
            notes = [torch.sin(2 * torch.pi * f * time) * torch.exp(-3 * (time * 4 % 1)) for f in (196, 247, 294, 1568)]
            signal = torch.stack([sum(notes[:3], torch.zeros(())), notes[3]])[:, : 256 * 172] / 4
        latents = codec.encode(signal, rounding="round")
        errors = [
            (codec.decode(latents, size=signal.shape[1:], decoder=decoder) - signal).square().mean()
            for decoder in ("linear", "refiner")
        ]
        assert errors[1] < errors[0], name


@pytest.mark.parametrize("name", ["rgb_16x_viewing", "rgb_4x_viewing"])
def test_trained_channels_stay_ordered(name: str) -> None:
    """A codec whose projection was trained is nearer to the image with every prefix, refined, too."""
    codec, signal = wt.load_codec(name), discs()
    latents = codec.encode(signal, rounding="round")
    for decoder in ("linear", "refiner"):
        errors = [
            float((codec.prefix(n).decode(latents[:n], decoder=decoder) - signal).square().mean())
            for n in (1, 3, 6, 9, 12, 24, 36, 48)
            if n <= codec.config.channels
        ]
        assert errors == sorted(errors, reverse=True), decoder


def test_prefix() -> None:
    image = torch.rand(3, 64, 80)
    whole = wt.functional.encode_image(image, "rgb_4x")
    codec = wt.load_codec("rgb_4x", channels=12)
    prefix = wt.functional.encode_image(image, codec)
    torch.testing.assert_close(prefix, whole[:12], atol=1e-3, rtol=0)
    errors = [
        (wt.functional.decode_image(whole[:n], wt.load_codec("rgb_4x", channels=n)) - image).square().mean()
        for n in (1, 3, 12, 48)
    ]
    assert errors == sorted(errors, reverse=True)


def test_a_codec_is_returned_as_it_is() -> None:
    codec = wt.load_codec("rgb_16x")
    assert wt.load_codec(codec) is codec


@pytest.mark.parametrize("kind", [str, Path])
def test_folder(tmp_path: Path, kind: type) -> None:
    codec = wt.load_codec("rgb_16x")
    codec.save_pretrained(tmp_path / "mine")
    image = torch.rand(3, 17, 33)
    assert torch.equal(wt.load_codec(kind(tmp_path / "mine")).encode(image), codec.encode(image))


def test_folder_named_like_an_embedded_codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of the two is read does not depend on where one stands, and a notice says how to name the other."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rgb_16x").mkdir()  # of other things
    assert wt.load_codec("rgb_16x").config.channels == 12
    make_codec().save_pretrained("rgb_4x")
    for load in (wt.load_codec, wt.codec_info):
        with pytest.warns(
            UserWarning, match=r"'rgb_4x' is the embedded codec; the folder of this name is './rgb_4x'"
        ) as warned:
            named = load("rgb_4x")
        assert warned[0].filename == __file__
        assert getattr(named, "config", named).channels == 48
        for other in ("./rgb_4x", Path("rgb_4x"), tmp_path / "rgb_4x"):
            found = load(other)
            assert getattr(found, "config", found).channels == 12


def test_folder_named_like_a_checkpoint(tmp_path: Path) -> None:
    make_codec().save_pretrained(tmp_path / "mine.pth")
    assert wt.load_codec(str(tmp_path / "mine.pth")).config.channels == 12


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rgb_16", "unknown codec 'rgb_16': did you mean 'rgb_16x'"),
        ("RGB_4x", "did you mean 'rgb_4x'"),
        (
            "nothing like it",
            r"Embedded codecs are rgb_16x, rgb_4x, rgb_16x_viewing, rgb_4x_viewing, stereo_20x, stereo_5x; "
            r"a folder, a .pth file or a hub repository",
        ),
    ],
)
def test_unknown_name(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wt.load_codec(name)


def test_missing_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"it has no config\.json"):
        wt.load_codec(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        wt.load_codec(tmp_path / "nowhere")


def test_hub_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = wt.load_codec("rgb_16x")
    codec.save_pretrained(tmp_path)
    asked = []

    def download(repo: str, file: str, revision: str | None = None) -> str:
        asked.append((repo, file))
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    loaded = wt.load_codec("owner/name")
    assert torch.equal(loaded.weight, codec.weight)
    assert loaded.config.name == "owner/name"  # which stored latents will name
    assert asked == [("owner/name", "config.json"), ("owner/name", "weights.safetensors")]


def test_large_files_are_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metadata: SimpleNamespace
) -> None:
    wt.load_codec("rgb_16x").save_pretrained(tmp_path / "main")
    hub = Hub(tmp_path, monkeypatch)
    metadata.size = 2**20 + 1
    with pytest.raises(ValueError, match=r"config\.json of 'owner/name' has 1,048,577 bytes: expected at most 1"):
        wt.load_codec("owner/name")
    metadata.size = 2**32 + 1
    with pytest.raises(ValueError, match=r"big\.pth of 'owner/name' has 4,294,967,297 bytes"):
        wt.load_codec("owner/name:big")
    assert not hub.asked


def test_failed_download_names_what_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repo: str, file: str, revision: str | None) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(
        ConnectionError, match=r"'owner/name'.*Without a download there are rgb_16x, rgb_4x, rgb_16x_viewing"
    ):
        wt.load_codec("owner/name")


class Hub:
    """A stand-in for the download: one repository, with revisions as folders."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.asked = folder, []
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self.download)

    def download(self, repo: str, file: str, revision: str | None = None) -> str:
        self.asked.append((repo, file, revision))
        path = self.folder / (revision or "main") / file
        if not path.is_file():
            raise huggingface_hub.errors.LocalEntryNotFoundError("404")
        return str(path)


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A repository of two checkpoints, one with and one without settings."""
    for revision in ("main", "v2"):
        (tmp_path / revision).mkdir()
        file = save_checkpoint(tmp_path / revision, "linear", "json")
        file.rename(file.with_stem("RGB_16x"))
        file.with_suffix(".json").rename(file.with_name("RGB_16x.json"))
        save_checkpoint(tmp_path / revision, "residual", "bare").rename(file.with_stem("residual_nf8"))
    return Hub(tmp_path, monkeypatch)


def test_variant_of_a_repository(checkpoints: Hub) -> None:
    codec = wt.load_codec("owner/name", variant="RGB_16x", revision="v2")
    assert checkpoints.asked == [("owner/name", "RGB_16x.pth", "v2"), ("owner/name", "RGB_16x.json", "v2")]
    assert codec.config.name == "owner/name:RGB_16x"
    assert codec.config.source == "RGB_16x.pth of owner/name"
    again = wt.WallocEncode("owner/name:RGB_16x").codec
    assert again.fingerprint() == codec.fingerprint()
    assert checkpoints.asked[2:] == [("owner/name", "RGB_16x.pth", None), ("owner/name", "RGB_16x.json", None)]
    with pytest.raises(ValueError, match="names the variant 'RGB_16x', got variant='other'"):
        wt.load_codec("owner/name:RGB_16x", variant="other")


def test_variant_without_settings(checkpoints: Hub) -> None:
    assert wt.load_codec("owner/name:residual_nf8").config.stages == 4


def test_repository_of_checkpoints_wants_a_variant(checkpoints: Hub) -> None:
    with pytest.raises(ConnectionError, match=r"did not give config\.json.*needs variant='NAME'"):
        wt.load_codec("owner/name")
    with pytest.raises(ConnectionError, match=r"did not give nothing\.pth"):
        wt.load_codec("owner/name", variant="nothing")


def test_failing_download_of_settings_is_no_missing_one(checkpoints: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repo: str, file: str, revision: str | None = None) -> str:
        if file.endswith(".json"):
            raise OSError("the line is down")
        return checkpoints.download(repo, file, revision)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(ConnectionError, match="the line is down"):
        wt.load_codec("owner/name:RGB_16x")


def test_variant_is_for_repositories(tmp_path: Path) -> None:
    wt.load_codec("rgb_16x").save_pretrained(tmp_path)
    for codec in ("rgb_16x", tmp_path, str(tmp_path)):
        with pytest.raises(ValueError, match="variant and revision are for repositories"):
            wt.load_codec(codec, variant="RGB_16x")


@pytest.mark.slow
def test_cache_offline(tmp_path: Path) -> None:
    """The hub's own library finds what it downloaded earlier, by branch and by commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub/models--owner--name"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(commit)
    file = save_checkpoint(snapshot, "linear", "record")
    file.rename(file.with_stem("RGB_16x"))
    code = (
        "import walloc_transforms as wt;"
        "a = wt.load_codec('owner/name:RGB_16x');"
        f"b = wt.load_codec('owner/name', variant='RGB_16x', revision='{commit}');"
        "assert a.fingerprint() == b.fingerprint(); print(a.config.name)"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "owner/name:RGB_16x", done.stderr


def test_decoder_of_a_repository_is_downloaded_when_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = wt.load_codec(str(save_checkpoint(tmp_path, "codec2d")))
    codec.save_pretrained(tmp_path / "main")
    hub = Hub(tmp_path, monkeypatch)
    loaded = wt.load_codec("owner/name")
    latents = loaded.encode(torch.rand(3, 48, 48), rounding="round")
    assert [file for _, file, _ in hub.asked] == ["config.json", "weights.safetensors"]
    assert torch.equal(pickle.loads(pickle.dumps(loaded)).decode(latents), codec.decode(latents))
    assert hub.asked[-1] == ("owner/name", "decoder.safetensors", None)


def test_refiner_of_a_repository_is_downloaded_when_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = give_refiner(make_codec())
    codec.save_pretrained(tmp_path / "main")
    codec.save_pretrained(tmp_path / "v2")
    hub = Hub(tmp_path, monkeypatch)
    loaded, shorter = wt.load_codec("owner/name", revision="v2"), wt.load_codec("owner/name", channels=5)
    latents = loaded.encode(torch.rand(3, 16, 16), rounding="round")
    assert torch.equal(loaded.decode(latents), codec.decode(latents))
    shorter.decode(latents[:5])
    files = ["config.json", "weights.safetensors"]
    assert [file for _, file, _ in hub.asked] == files * 2
    expected = codec.decode(latents, decoder="refiner")
    assert torch.equal(pickle.loads(pickle.dumps(loaded)).decode(latents, decoder="refiner"), expected)
    assert hub.asked[4:] == [("owner/name", "refiner.safetensors", "v2")]
    expected_of_prefix = codec.prefix(5).decode(latents[:5], decoder="refiner")
    for _ in range(2):
        torch.testing.assert_close(shorter.decode(latents[:5], decoder="refiner"), expected_of_prefix)
    assert hub.asked[5:] == [("owner/name", "refiner.safetensors", None)]
    assert torch.equal(loaded.decode(latents, decoder="refiner"), expected)
    loaded.save_pretrained(tmp_path / "mine")
    assert (tmp_path / "mine/refiner.safetensors").read_bytes() == (tmp_path / "v2/refiner.safetensors").read_bytes()


def test_refiner_that_the_hub_does_not_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_refiner(make_codec()).save_pretrained(tmp_path / "main")
    file = tmp_path / "main/refiner.safetensors"
    content = file.read_bytes()
    Hub(tmp_path, monkeypatch)
    codec, latents = wt.load_codec("owner/name"), torch.zeros(12, 2, 2)
    file.unlink()
    with pytest.raises(ConnectionError, match=r"the hub did not give refiner\.safetensors of 'owner/name'"):
        codec.decode(latents, decoder="refiner")
    file.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"refiner\.safetensors is damaged"):
        codec.decode(latents, decoder="refiner")
    file.write_bytes(content)
    codec.decode(latents, decoder="refiner")
