"""Codec configs, and codecs on disk."""

import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from tests.helpers import give_refiner, loaded_refiner, make_codec, signal
from walloc_transforms import sealed
from walloc_transforms.codec import Codec, CodecConfig

FILES = ["config.json", "weights.safetensors"]
VALID: dict[str, Any] = {"name": "x", "modality": "image", "signal_channels": 3, "channels": 12, "levels": 3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_codec().save_pretrained(tmp_path / "codec")
    return tmp_path / "codec"


def write_weights(folder: Path, weights: bytes) -> None:
    """Weights that the config vouches for, so that the checks behind the hash are reached."""
    (folder / FILES[1]).write_bytes(weights)
    edit_config(folder, sha256=hashlib.sha256(weights).hexdigest())


def edit_config(folder: Path, **changes: object) -> None:
    """Change fields of a config, and its hash of them."""
    config = json.loads((folder / FILES[0]).read_text())
    sealed.write_config(folder / FILES[0], {**config, **changes})


def edit_weights(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    state = safetensors.torch.load_file(folder / FILES[1])
    edit(state)
    write_weights(folder, safetensors.torch.save(state))


@pytest.mark.parametrize(
    ("modality", "options", "derived"),
    [
        ("image", {}, (2, 8, 192, 16.0)),
        ("image", {"channels": 48}, (2, 8, 192, 4.0)),
        ("audio", {"signal_channels": 2, "levels": 8, "channels": 108}, (1, 256, 512, 512 / 108)),
    ],
)
def test_config(modality: str, options: dict, derived: tuple) -> None:
    config = CodecConfig(**{**VALID, "modality": modality, **options})
    assert (config.dims, config.stride, config.packets, config.dimensionality_reduction) == derived
    assert (config.wavelet, config.latent_bits, config.source) == ("bior4.4", 8, "")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.levels = 4  # pyright: ignore[reportAttributeAccessIssue]


WRONG_FIELDS = [
    ("levels", "3", "levels must be of type int, or one for each axis, got '3'"),
    ("levels", 3.0, "levels must be of type int, or one for each axis, got 3.0"),
    ("levels", True, "levels must be of type int, or one for each axis, got True"),
    ("levels", None, "levels must be of type int, or one for each axis, got None"),
    ("levels", 0, "levels must be from 1 to 16, got 0"),
    ("levels", 17, "levels must be from 1 to 16, got 17"),
    ("name", 5, "name must be of type str, got 5"),
    ("modality", "video", "'image' or 'audio' or 'volume', got 'video'"),
    ("modality", ["image"], "modality must be of type str"),
    ("wavelet", 4.4, "wavelet must be of type str, got 4.4"),
    ("source", None, "source must be of type str, got None"),
    ("signal_channels", 0, "signal_channels must be from 1 to 4096, got 0"),
    ("channels", 0, "channels must be from 1 to 192 .*3 signal channels.*, got 0"),
    ("channels", 193, "channels must be from 1 to 192 .*, got 193"),
    ("latent_bits", 1, "latent_bits must be from 2 to 16, got 1"),
    ("latent_bits", 17, "latent_bits must be from 2 to 16, got 17"),
    ("name", "a\nb", r"name must be one line of at most 200 printable characters, got 3 characters: 'a\\nb'"),
    ("name", "x" * 201, "name must be one line of at most 200 .* got 201 characters: 'x{79}...$"),
    ("source", "\x1b[31m", "source must be one line of at most 2000 printable"),
]


@pytest.mark.parametrize(("field", "value", "match"), WRONG_FIELDS)
def test_config_refuses(field: str, value: object, match: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=match):
        CodecConfig(**{**VALID, field: value})
    edit_config(folder, **{field: value})
    with pytest.raises(ValueError, match=match):
        Codec.from_pretrained(folder)


def test_unknown_wavelet() -> None:
    with pytest.raises(ValueError, match="unknown wavelet 'nope'"):
        Codec(CodecConfig(**VALID, wavelet="nope"))


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (17, 24)),
        ({"wavelet": "haar", "latent_bits": 6, "source": "tést", "signals": 1}, (16, 16)),
        ({"dims": 1, "levels": 6, "signals": 2}, (300,)),
    ],
)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_round_trip_changes_no_bit(options: dict, size: tuple, requires_grad: bool, tmp_path: Path) -> None:
    codec = make_codec(**options)
    x = signal(2, codec.config.signal_channels, *size)
    latents, decoded = codec.encode(x), codec.decode(codec.encode(x))
    codec.requires_grad_(requires_grad).save_pretrained(str(tmp_path / "new" / "folder"))
    loaded = Codec.from_pretrained(str(tmp_path / "new" / "folder"))
    assert loaded.config == codec.config
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in codec.state_dict().items())
    assert torch.equal(loaded.encode(x), latents)
    assert torch.equal(loaded.decode(latents), decoded)
    assert not any(p.requires_grad for p in loaded.parameters())


def test_folder_holds_two_readable_files(folder: Path) -> None:
    assert sorted(os.listdir(folder)) == FILES
    config = json.loads((folder / FILES[0]).read_text())
    assert (config["format"], config["version"], config["channels"]) == ("walloc_transforms.codec", 2, 12)
    assert set(safetensors.torch.load_file(folder / FILES[1])) == {
        "weight",
        "bias",
        "decoder.weight",
        "decoder.bias",
        "latent_mean",
        "latent_std",
    }


def test_saving_overwrites(folder: Path) -> None:
    codec = make_codec(5)
    codec.save_pretrained(folder)
    assert torch.equal(Codec.from_pretrained(folder).weight, codec.weight)
    assert sorted(os.listdir(folder)) == FILES


def test_failed_saving_leaves_the_old_codec(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    before = Codec.from_pretrained(folder)
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        make_codec(5).save_pretrained(folder)
    assert sorted(os.listdir(folder)) == FILES
    assert torch.equal(Codec.from_pretrained(folder).weight, before.weight)


@pytest.mark.parametrize("missing", FILES)
def test_missing_file(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"codec is no codec folder: it has no {missing}"):
        Codec.from_pretrained(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_is_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).rename(folder / "kept")
    os.mkfifo(folder / name)
    with pytest.raises(FileNotFoundError, match=f"it has no {name}"):
        Codec.from_pretrained(folder)
    (folder / name).unlink()
    (folder / name).symlink_to(folder / "kept")  # as in the cache of the hub
    assert Codec.from_pretrained(folder).config.name == "random"


def test_a_reader_between_two_files_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        with pytest.raises(ValueError, match=r"weights\.safetensors is damaged or belongs to another config"):
            Codec.from_pretrained(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(sealed, "write_config", read)
    with pytest.raises(KeyboardInterrupt):
        make_codec(5).save_pretrained(folder)
    monkeypatch.undo()
    make_codec(5).save_pretrained(folder)
    assert torch.equal(Codec.from_pretrained(folder).weight, make_codec(5).weight)


def test_files_of_two_writers_do_not_mix(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = threading.Thread(target=make_codec(7).save_pretrained, args=(folder,))

    def write(file: Path, fields: dict[str, Any]) -> None:
        monkeypatch.undo()
        other.start()  # it waits, or else its weights come between these and their config
        other.join(0.2)
        sealed.write_config(file, fields)

    monkeypatch.setattr(sealed, "write_config", write)
    make_codec(5).save_pretrained(folder)
    other.join()
    assert torch.equal(Codec.from_pretrained(folder).weight, make_codec(7).weight)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is no codec folder"):
        Codec.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-1],
        lambda b: b[: len(b) // 2],
        lambda b: b"",
        lambda b: b + b"\0",
        lambda b: b[:-100] + bytes([b[-100] ^ 1]) + b[-99:],
    ],
    ids=["a byte short", "half", "empty", "a byte long", "flipped bit"],
)
def test_damaged_weights(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    file = folder / FILES[1]
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged or belongs to another config"):
        Codec.from_pretrained(folder)


@pytest.mark.parametrize("weights", [b"", b"junk", b"\xff" * 64], ids=["empty", "junk", "long header"])
def test_weights_that_are_no_safetensors(folder: Path, weights: bytes) -> None:
    write_weights(folder, weights)
    with pytest.raises(ValueError, match=r"weights\.safetensors is no safetensors file"):
        Codec.from_pretrained(folder)


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda s: s.pop("bias"), r"does not fit its config: missing tensors \['bias'\]"),
        (lambda s: s.pop("latent_std"), r"missing tensors \['latent_std'\]"),
        (lambda s: s.update(extra=torch.zeros(1)), r"unexpected \['extra'\]"),
        (lambda s: s.update(bias=torch.zeros(11)), r"does not fit its config: bias has shape \(11,\), not \(12,\)"),
        (lambda s: s.update(weight=s["weight"].T.contiguous()), "does not fit its config: weight has shape"),
        (lambda s: s["weight"][3].fill_(torch.nan), "weight must hold finite float32 values"),
        (lambda s: s["latent_mean"][:1].fill_(torch.inf), "latent_mean must hold finite float32 values"),
        (lambda s: s.update(weight=s["weight"].half()), "weight must hold finite float32 values"),
        (lambda s: s.update(bias=torch.zeros(12, dtype=torch.int64)), "bias must hold finite float32 values"),
        (lambda s: s["latent_std"][:1].fill_(0), "latent_std"),
    ],
)
def test_wrong_tensors(folder: Path, edit: Callable[[dict[str, Tensor]], object], match: str) -> None:
    edit_weights(folder, edit)
    with pytest.raises(ValueError, match=f"(?s){match.removeprefix('(?s)')}"):
        Codec.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": "other"}, "does not describe a codec: expected format 'walloc_transforms.codec'"),
        ({"version": 1}, "of version 1: this release reads version 2"),
        ({"version": None}, "of version None"),
        ({"color": "red"}, r"unknown fields \['color'\]"),
        ({"sha256": "0" * 64}, "is damaged or belongs to another config"),
        ({"sha256": 5}, "is damaged or belongs to another config"),
        ({"wavelet": "nope"}, "unknown wavelet 'nope'"),
        ({"channels": 11}, "does not fit its config: weight has shape"),
        ({"signal_channels": 1}, "does not fit its config"),
        ({"modality": "audio", "channels": 6}, "does not fit its config"),
        ({"levels": 16, "channels": 2**30}, "16 levels of .* compose filters of 589,816x589,816 taps"),
        # nor may it try to allocate this
        ({"wavelet": "haar", "levels": 6, "signal_channels": 1000, "channels": 2**20}, "does not fit its config"),
    ],
)
def test_wrong_config(folder: Path, changes: dict[str, object], match: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=match):
        Codec.from_pretrained(folder)


@pytest.mark.parametrize("changes", [{"latent_bits": 4}, {"wavelet": "bior2.2"}, {"companding": "clip"}, {"name": "y"}])
def test_config_edited_by_hand(folder: Path, changes: dict[str, object]) -> None:
    file = folder / FILES[0]
    config = json.loads(file.read_text())
    file.write_text(json.dumps(dict(reversed(config.items()))))  # its order and spaces do not matter
    assert Codec.from_pretrained(folder).config.latent_bits == 8
    file.write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match=r"config\.json was edited after a codec was saved.* save again"):
        Codec.from_pretrained(folder)


@pytest.mark.parametrize("field", ["format", "version", "sha256", "name", "levels", "latent_bits"])
def test_missing_field(folder: Path, field: str) -> None:
    config = json.loads((folder / FILES[0]).read_text())
    del config[field]
    sealed.write_config(folder / FILES[0], config)
    expected = {"format": "expected format", "version": "version None"}.get(field, rf"missing fields \['{field}'\]")
    with pytest.raises(ValueError, match=expected):
        Codec.from_pretrained(folder)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "no JSON file"),
        (b"{", "no JSON file"),
        (b"\xff\xfe", "no JSON file"),
        (b"[" * 60_000, "JSON"),
        (b" " * 65_537, "too long: expected at most 65,536 bytes"),
        (b'{"levels": ' + b"9" * 5000 + b"}", "no JSON file"),
        (b'{"levels": NaN}', "no JSON file: NaN is no number"),
        (b"[]", "does not describe a codec"),
        (b"null", "does not describe a codec"),
        (b"{}", "does not describe a codec"),
    ],
    ids=["empty", "cut", "not UTF-8", "deep", "long", "large", "NaN", "list", "null", "no fields"],
)
def test_config_that_is_no_config(folder: Path, content: bytes, match: str) -> None:
    (folder / FILES[0]).write_bytes(content)
    with pytest.raises(ValueError, match=match):
        Codec.from_pretrained(folder)


def test_loading_leaves_the_random_state_alone(folder: Path) -> None:
    state = torch.get_rng_state()
    Codec.from_pretrained(folder)
    assert torch.equal(torch.get_rng_state(), state)


REFINER = "refiner.safetensors"


@pytest.fixture
def refined(tmp_path: Path) -> Path:
    give_refiner(make_codec(), blocks=2).save_pretrained(tmp_path / "refined")
    return tmp_path / "refined"


def refine(codec: Codec, latents: Tensor) -> Tensor:
    return codec.decode(latents, decoder="refiner")


def edit_refiner(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    """Change tensors, and the config so that it vouches for them."""
    state = safetensors.torch.load_file(folder / REFINER)
    edit(state)
    content = safetensors.torch.save(state)
    (folder / REFINER).write_bytes(content)
    edit_config(folder, refiner_sha256=hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(("dims", "size"), [(2, (17, 24)), (1, (300,))])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_refiner_goes_round(dims: int, size: tuple, requires_grad: bool, tmp_path: Path) -> None:
    codec = give_refiner(make_codec(dims=dims), blocks=2)
    latents = codec.encode(signal(2, 3, *size))
    decoded = refine(codec, latents)
    codec.requires_grad_(requires_grad).save_pretrained(tmp_path)
    loaded = Codec.from_pretrained(tmp_path)
    assert loaded.config == codec.config
    assert loaded.fingerprint() == codec.fingerprint()
    assert loaded.refiner is None
    assert torch.equal(refine(loaded, latents), decoded)  # half precision holds the weights of this one
    assert loaded.refiner is not None
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in codec.state_dict().items())
    assert not any(p.requires_grad for p in loaded.parameters())


def test_refiner_is_stored_in_half_precision(refined: Path) -> None:
    assert sorted(os.listdir(refined)) == ["config.json", REFINER, "weights.safetensors"]
    config = json.loads((refined / FILES[0]).read_text())
    assert (config["refiner_width"], config["refiner_blocks"]) == (8, 2)
    assert config["refiner_sha256"] == hashlib.sha256((refined / REFINER).read_bytes()).hexdigest()
    assert "weight" in safetensors.torch.load_file(refined / FILES[1])
    assert not any("refiner" in name for name in safetensors.torch.load_file(refined / FILES[1]))
    state = safetensors.torch.load_file(refined / REFINER)
    assert {k for k, v in state.items() if v.dtype != torch.float16} == {"scale"}
    assert state["scale"].dtype == torch.float32
    # stem, two blocks of two convolutions, all norms, head; scale
    values = 12 * 8 * 9 + 8 + 2 * (2 * (8 * 8 * 9 + 8) + 16) + 16 + 192 * 8
    assert sum(v.numel() * v.element_size() for v in state.values()) == 2 * values + 4 * 192
    assert (refined / REFINER).stat().st_size < 2 * values + 4 * 192 + 2000


def test_refiner_is_rounded_to_half_precision(tmp_path: Path) -> None:
    codec = give_refiner(make_codec())
    refiner = loaded_refiner(codec)
    with torch.no_grad():
        refiner.head.add_(1e-5)
    refiner.scale.mul_(1e-6)
    codec.save_pretrained(tmp_path)
    loaded = Codec.from_pretrained(tmp_path).load_refiner()
    assert not torch.equal(loaded.head, refiner.head)
    assert torch.equal(loaded.head, refiner.head.half().float())
    assert torch.equal(loaded.scale, refiner.scale)


@pytest.mark.parametrize("read", [False, True])
def test_saving_again_what_was_read(refined: Path, read: bool, tmp_path: Path) -> None:
    codec = Codec.from_pretrained(refined)
    if read:
        codec.load_refiner()
    codec.save_pretrained(tmp_path / "again")
    for file in os.listdir(refined):
        assert (refined / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file


def test_a_codec_without_refiner_has_no_such_file(folder: Path) -> None:
    config = json.loads((folder / FILES[0]).read_text())
    assert (config["refiner_width"], config["refiner_blocks"]) == (0, 0)
    assert "refiner_sha256" not in config
    for field in ("refiner_width", "refiner_blocks"):  # unknown to releases that had none
        del config[field]
    sealed.write_config(folder / FILES[0], config)
    assert Codec.from_pretrained(folder).config.refiner_width == 0


@pytest.mark.parametrize(
    ("damage", "error", "match"),
    [
        (lambda f: f.unlink(), FileNotFoundError, r"refiner\.safetensors, the refiner of this codec, is missing"),
        (lambda f: f.write_bytes(f.read_bytes()[:-1]), ValueError, r"refiner\.safetensors is damaged"),
        (lambda f: f.write_bytes(b""), ValueError, r"refiner\.safetensors is damaged"),
        (lambda f: f.write_bytes(f.with_stem("weights").read_bytes()), ValueError, r"refiner\.safetensors is damaged"),
    ],
    ids=["missing", "a byte short", "empty", "another file"],
)
def test_damaged_refiner_harms_nothing_else(
    refined: Path, damage: Callable[[Path], object], error: type[Exception], match: str
) -> None:
    x, whole = signal(1, 3, 16, 24), Codec.from_pretrained(refined)
    damage(refined / REFINER)
    codec = Codec.from_pretrained(refined)
    latents = codec.encode(x)
    assert torch.equal(codec.decode(latents), whole.decode(latents))
    for broken in (codec, codec.prefix(5), whole):  # nor has it been read before
        for _ in range(2):
            with pytest.raises(error, match=match):
                refine(broken, latents[:, : broken.config.channels])
        assert broken.refiner is None
    with pytest.raises(error, match=match):
        codec.save_pretrained(refined / "again")
    assert not (refined / "again").exists()


def test_refiner_that_is_no_safetensors(refined: Path) -> None:
    (refined / REFINER).write_bytes(b"junk")
    edit_config(refined, refiner_sha256=hashlib.sha256(b"junk").hexdigest())
    codec = Codec.from_pretrained(refined)
    with pytest.raises(ValueError, match=r"refiner\.safetensors is no safetensors file"):
        codec.load_refiner()


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (
            lambda s: s.pop("scale"),
            r"the refiner of codec 'random' does not fit its config: missing tensors \['scale'\]",
        ),
        (lambda s: s.update(extra=torch.zeros(1)), r"unexpected \['extra'\]"),
        (lambda s: s.update(head=s["head"][:, :4].clone()), r"head has shape \(192, 4\), not \(192, 8\)"),
        (lambda s: s["head"][3].fill_(torch.nan), "head must hold finite float32 values"),
        (lambda s: s.update(head=s["head"].bfloat16()), "head must hold finite float32 values"),
    ],
)
def test_wrong_tensors_of_a_refiner(refined: Path, edit: Callable[[dict[str, Tensor]], object], match: str) -> None:
    edit_refiner(refined, edit)
    codec = Codec.from_pretrained(refined)
    codec.decode(torch.zeros(12, 2, 2))
    with pytest.raises(ValueError, match=match):
        refine(codec, torch.zeros(12, 2, 2))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"refiner_width": 0, "refiner_blocks": 0},
            "refiner_sha256 belongs to a refiner, whose refiner_width here is 0",
        ),
        ({"refiner_sha256": None}, "refiner_sha256 belongs to a refiner, whose refiner_width here is 8"),
        ({"refiner_blocks": 0}, "must both be 0, or neither, got 8 and 0"),
        ({"refiner_width": 10**6}, "refiner_width must be from 0 to 4096"),
        ({"statistics": False}, "a refiner goes with a linear encoder and decoder"),
    ],
)
def test_config_at_odds_with_its_refiner(refined: Path, changes: dict[str, object], match: str) -> None:
    edit_config(refined, **changes)
    with pytest.raises(ValueError, match=match):
        Codec.from_pretrained(refined)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"refiner_sha256": "0" * 64}, "is damaged or belongs to another config"),
        ({"refiner_sha256": ""}, "is damaged or belongs to another config"),
        ({"refiner_sha256": 0}, "is damaged or belongs to another config"),
        ({"refiner_blocks": 1}, r"unexpected \['blocks.1.conv1.bias'"),
        ({"refiner_blocks": 3}, r"missing tensors \['blocks.2.conv1.bias'"),
        ({"refiner_width": 4096}, "does not fit its config"),
    ],  # nor may it try to allocate that
)
def test_refiner_of_another_config(refined: Path, changes: dict[str, object], match: str) -> None:
    edit_config(refined, **changes)
    codec = Codec.from_pretrained(refined)
    with pytest.raises(ValueError, match=match):
        codec.load_refiner()


def test_a_refiner_beyond_half_precision_leaves_the_old_codec(refined: Path) -> None:
    before = {file: (refined / file).read_bytes() for file in os.listdir(refined)}
    codec = give_refiner(make_codec())
    loaded_refiner(codec).head[0, 0] = 1e5
    with pytest.raises(ValueError, match="the refiner's head is beyond the range of half precision"):
        codec.save_pretrained(refined)
    assert {file: (refined / file).read_bytes() for file in os.listdir(refined)} == before


def test_reading_a_refiner_leaves_the_random_state_alone(refined: Path) -> None:
    state = torch.get_rng_state()
    Codec.from_pretrained(refined).load_refiner()
    assert torch.equal(torch.get_rng_state(), state)
