"""The reference's checkpoints, read and run: against golden arrays that the reference itself made of the same weights.

tests/test_parity.py compares with the reference at full size, where it is installed.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import walloc_transforms as wt
from tests.reference import CASES, GOLDEN, load_golden, make_signal, save_checkpoint
from walloc_transforms.codec import Codec
from walloc_transforms.zoo.published import read_published

pytest.importorskip("diffusers")


def public(signal: Tensor) -> Tensor:
    """From the reference's range, [-0.5, 0.5], to that of images ``(N, C, H, W)`` or waveforms ``(N, C, T)``."""
    return signal + 0.5 if signal.ndim == 4 else 2 * signal


@pytest.mark.parametrize("name", CASES)
def test_golden(tmp_path: Path, name: str) -> None:
    codec, (golden, _) = wt.load_codec(str(save_checkpoint(tmp_path, name))), load_golden(name)
    x = public(make_signal(1, CASES[name].arguments["channels"], *CASES[name].size))
    if "latents" in golden:
        torch.testing.assert_close(codec.encode(x), golden["latents"], rtol=0, atol=1e-3)
    rounded = codec.encode(x, rounding="round")
    assert rounded.shape == golden["rounded"].shape
    assert (rounded != golden["rounded"]).float().mean() <= 1e-3
    assert (rounded - golden["rounded"]).abs().max() <= 1
    decoded = codec.decode(golden["rounded"], clamp=name == "residual")  # the reference clamps this one itself
    torch.testing.assert_close(decoded, public(golden["decoded"]), rtol=0, atol=2e-4)
    assert golden["decoded"].std() > 0.02


@pytest.mark.parametrize("name", CASES)
def test_residual_and_others_on_the_plain_path(tmp_path: Path, name: str) -> None:
    codec, (golden, _) = read_published(save_checkpoint(tmp_path, name)), load_golden(name)
    codec.requires_grad_(True)
    x = public(make_signal(1, CASES[name].arguments["channels"], *CASES[name].size))
    rounded = codec.encode(x, rounding="round")
    assert (rounded != golden["rounded"]).float().mean() <= 1e-3


EXPECTED = {
    "codec2d": {"decoder": "autoencoder_kl", "decoder_width": 32, "levels": 3, "channels": 12, "latent_bits": 8},
    "codec2d_deep": {"encoder": "autoencoder_kl", "encoder_width": 64, "latent_bits": 4},
    "codec1d": {
        "modality": "audio",
        "signal_channels": 2,
        "levels": 6,
        "pad": 1,
        "decoder": "oobleck",
        "decoder_width": 54,
        "post_filter": True,
    },
    "codec1d_deep": {"encoder": "oobleck", "encoder_width": 16, "post_filter": False, "pad": 1},
    "linear": {"encoder": "linear", "decoder": "linear", "companding": "gaussian"},
    "residual": {"stages": 4, "channels": 48, "decoder": "linear"},
    "walloc_0.3.7": {"companding": "clip", "latent_bits": 5, "encoder_width": 32, "decoder_width": 32},
    "walloc_0.4.0": {"decoder_layers": 6, "decoder_width": 64},
    "walloc_0.6.0": {"encoder": "linear", "companding": "clip", "latent_bits": 3},
}


@pytest.mark.parametrize("name", CASES)
def test_config(tmp_path: Path, name: str) -> None:
    config = read_published(save_checkpoint(tmp_path, name)).config
    assert {key: getattr(config, key) for key in EXPECTED[name]} == EXPECTED[name]
    assert (config.name, config.statistics) == (name, False)


@pytest.mark.parametrize("form", ["json", "record", "args"])
def test_generations(tmp_path: Path, form: str) -> None:
    codec = read_published(save_checkpoint(tmp_path, "codec2d", form))
    assert codec.config.latent_bits == 8
    assert codec.fingerprint() == read_published(save_checkpoint(tmp_path, "codec2d", "record")).fingerprint()


@pytest.mark.parametrize(("stem", "bits"), [("RGB_16x", 8), ("RGB_Li_12c_J3_nf6_v1.0.2", 6), ("v0.12.0", 3)])
def test_name_tells_bits(tmp_path: Path, stem: str, bits: int) -> None:
    file = save_checkpoint(tmp_path, "codec2d", "bare").rename(tmp_path / f"{stem}.pth")
    assert read_published(file).config.latent_bits == bits


def test_nothing_tells_bits(tmp_path: Path) -> None:
    file = save_checkpoint(tmp_path, "codec2d", "bare")
    with pytest.raises(ValueError, match=r"nothing tells the number of bits.*JSON file of the same name"):
        read_published(file)
    file.with_suffix(".json").write_text('{"latent_bits": 7}')
    assert read_published(file).config.latent_bits == 7


def test_mono_or_stereo_is_not_guessed(tmp_path: Path) -> None:
    file = save_checkpoint(tmp_path, "codec1d_deep", "bare")
    with pytest.raises(ValueError, match=r"32 packets.*is not said"):
        read_published(file)


def test_json_goes_before_the_record(tmp_path: Path) -> None:
    file = save_checkpoint(tmp_path, "codec2d")
    file.with_suffix(".json").write_text('{"latent_bits": 6}')
    assert read_published(file).config.latent_bits == 6


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"J": 4}, r"encoder\.0\.weight reads 192 packets: that they are 4 levels of 3 signal channels is not so"),
        ({"channels": 1}, "3 levels of 1 signal channels is not so"),
        ({"latent_dim": 16}, r"latent_dim = 16, encoder\.0\.weight says 12"),
        ({"Nd": 768}, r"Nd = 768, decoder\.1\.conv_in\.weight says 32"),
        ({"latent_bits": 8.0}, r"latent_bits = 8\.0: expected a positive integer"),
        ({"J": True}, "J = True: expected"),
        ({"latent_bits": 17}, "latent_bits must be from 2 to 16"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, settings: dict[str, Any], match: str) -> None:
    file = save_checkpoint(tmp_path, "codec2d", "json")
    file.with_suffix(".json").write_text(json.dumps({**json.loads(file.with_suffix(".json").read_text()), **settings}))
    with pytest.raises(ValueError, match=match):
        read_published(file)


@pytest.mark.parametrize("name", ["J", "latent_bits", "Nd", "num_stages"])
def test_messages_do_not_unfold_what_a_file_holds(tmp_path: Path, name: str) -> None:
    file = save_checkpoint(tmp_path, "codec2d", "bare")
    value: list[Any] = [0]
    for _ in range(60):
        value = [value, value]
    content = torch.load(file, weights_only=True)
    torch.save({**content, "config": {"latent_bits": 8, name: value}}, file)
    with pytest.raises(ValueError, match=f"{name} = a list"):
        read_published(file)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff", ""])
def test_damaged_json(tmp_path: Path, text: str) -> None:
    file = save_checkpoint(tmp_path, "codec2d", "json")
    file.with_suffix(".json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"codec2d\.json"):
        read_published(file)


def _transpose(name: str) -> Callable[[dict[str, Tensor]], None]:
    def edit(state: dict[str, Tensor]) -> None:
        state[name] = state[name].transpose(0, 1).contiguous()

    return edit


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (
            lambda s: s.update({"teacher.weight": torch.zeros(2)}),
            "no WaLLoC codec: unexpected tensor 'teacher.weight'",
        ),
        (
            lambda s: s.pop("encoder.0.bias"),
            r"encoder\.0\.\* of codec 'codec2d' does not fit .* missing tensors \['bias'\]",
        ),
        (lambda s: s.update({"encoders.7.bias": torch.zeros(12)}), r"under the name encoders\.0\.\*"),
        (lambda s: s.update({"decoders.0.bias": torch.zeros(12)}), r"unexpected tensors 'decoders\.0\.'"),
        (lambda s: s.pop("encoder.0.weight"), r"under the name encoder\.0\.\*"),
        (lambda s: s.update({"encoder.0.bias": torch.zeros(11)}), r"bias has shape \(11,\), not \(12,\)"),
        (lambda s: s["encoder.0.weight"].fill_(torch.nan), "weight must hold finite"),
        (lambda s: s.update({"encoder.0.weight": s["encoder.0.weight"].half()}), "weight must hold finite float32"),
        (lambda s: s.pop("wt.h1_row"), r"the wavelet does not fit its config: missing tensors \['wt.h1_row'\]"),
        (lambda s: s["wt.h1_row"].mul_(1.1), r"wt\.h1_row does not hold the taps"),
        (lambda s: [s.pop(n) for n in list(s) if n.startswith("decoder.")], r"under the name decoder\.1\.\*"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, edit: Callable[[dict[str, Tensor]], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        read_published(save_checkpoint(tmp_path, "codec2d", edit=edit))


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (
            _transpose("decoder.1.conv_out.weight"),
            r"conv_out\.weight has shape \(32, 192, 3, 3\), not \(192, 32, 3, 3\)",
        ),
        (lambda s: s.pop("decoder.1.mid_block.attentions.0.to_q.weight"), "missing tensors .*to_q.weight"),
        (lambda s: s["decoder.1.conv_out.bias"].fill_(torch.inf), "conv_out.bias must hold finite"),
        (lambda s: s.update({"decoder.1.more": torch.zeros(1)}), r"unexpected \['more'\]"),
    ],
)
def test_decoder_tensors_that_do_not_fit(
    tmp_path: Path, edit: Callable[[dict[str, Tensor]], object], match: str
) -> None:
    codec = read_published(save_checkpoint(tmp_path, "codec2d", edit=edit))  # which does not look at the decoder
    with pytest.raises(ValueError, match=match):
        codec.decode(torch.zeros(12, 2, 2))


def test_audio_decoder_without_norms(tmp_path: Path) -> None:
    codec = read_published(save_checkpoint(tmp_path, "codec1d", edit=lambda s: s.pop("decoder.1.conv1.weight_g")))
    with pytest.raises(ValueError, match=r"decoder\.1\.\* of codec 'codec1d' .* missing tensors \['conv1\.weight_g'\]"):
        codec.load_decoder()


def test_no_codec(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="no model_state_dict"):
        read_published(tmp_path / "a.pth")
    with pytest.raises(FileNotFoundError):
        read_published(tmp_path / "b.pth")


@pytest.mark.parametrize("name", ["codec2d", "codec1d", "residual", "codec2d_deep"])
def test_conversion_keeps_everything(tmp_path: Path, name: str) -> None:
    codec = read_published(save_checkpoint(tmp_path, name))
    codec.save_pretrained(tmp_path / "folder")
    again = wt.load_codec(tmp_path / "folder")
    assert again.config == codec.config
    assert again.fingerprint() == codec.fingerprint()
    assert (tmp_path / "folder/decoder.safetensors").is_file() == (codec.config.decoder != "linear")
    x = public(make_signal(1, codec.config.signal_channels, *CASES[name].size))
    latents = again.encode(x, rounding="round")
    assert torch.equal(latents, codec.encode(x, rounding="round"))
    assert torch.equal(again.decode(latents), codec.decode(latents))


def test_encoding_reads_no_decoder(tmp_path: Path) -> None:
    file = save_checkpoint(tmp_path, "codec2d")
    whole = Codec.from_pretrained(converted(file, tmp_path / "folder"))
    damage(file)
    for codec in (read_published(file), whole):
        assert codec.encode(torch.zeros(3, 64, 64)).shape == (12, 8, 8)
        assert codec.decoder is None
        assert sum(p.numel() for p in codec.parameters()) == 2316
    (tmp_path / "folder/decoder.safetensors").unlink()
    codec = wt.load_codec(tmp_path / "folder")
    codec.encode(torch.zeros(3, 64, 64))
    with pytest.raises(FileNotFoundError, match=r"decoder\.safetensors, the decoder of this codec, is missing"):
        codec.decode(torch.zeros(12, 8, 8))


def converted(file: Path, folder: Path) -> Path:
    read_published(file).save_pretrained(folder)
    return folder


def damage(file: Path) -> None:
    """Flip bytes all over the second half of a checkpoint's weights, which hold the decoder."""
    content = bytearray(file.read_bytes())
    middle = len(content) * 3 // 4
    content[middle : middle + 64] = b"\xff" * 64
    file.write_bytes(content)


def test_damaged_decoder(tmp_path: Path) -> None:
    file = save_checkpoint(tmp_path, "codec2d")
    codec = Codec.from_pretrained(converted(file, tmp_path / "folder"))
    weights = tmp_path / "folder/decoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(ValueError, match=r"decoder\.safetensors is damaged"):
        codec.decode(torch.zeros(12, 2, 2))
    damage(file)
    with pytest.raises(ValueError, match="is damaged"):
        read_published(file).decode(torch.zeros(12, 2, 2))


def test_golden_files_are_small() -> None:
    others = {"gdn", "weconvene", "weconvene_density"}  # of tests/weconvene
    assert {file.stem for file in GOLDEN.glob("*.safetensors")} == {*CASES, *others}
    assert sum(file.stat().st_size for file in GOLDEN.glob("*.safetensors")) < 500_000
