"""Mistakes that would be silent: values out of range, a foreign codec, latents taken for images. Each is an error.

What cannot be noticed is tried as well, so that the documentation of it stays true: a plain tensor does not tell which
codec made it, whether it is normalized, in which order its colors are, or at which rate it was sampled.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor
from torch.utils.data import default_collate
from torchvision import tv_tensors

import walloc_transforms as wt
from tests.helpers import bounding_boxes


def photograph() -> Tensor:
    """A picture with dark, bright and colored places, ``(3, 64, 96)`` in [0, 1]."""
    rows, columns = torch.linspace(0, 1, 64)[:, None], torch.linspace(0, 1, 96)
    return torch.stack([rows * columns, rows.expand(-1, 96), (1 - columns).expand(64, -1)])


def tone() -> Tensor:
    return 0.8 * torch.sin(torch.arange(8192) * torch.tensor([[0.05], [0.07]]))


MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
WRONG_IMAGES = {
    "0..255": (lambda x: x * 255, "0..255 as floats"),
    "ImageNet": (lambda x: (x - MEAN) / STD, "normalized pixels"),
    "-1..1": (lambda x: x * 2 - 1, "normalized pixels"),
    "-0.5..0.5": (lambda x: x - 0.5, "normalized pixels"),
}


@pytest.mark.parametrize("codec", ["rgb_16x", "rgb_4x"])
@pytest.mark.parametrize(("change", "match"), WRONG_IMAGES.values(), ids=WRONG_IMAGES)
def test_images_out_of_range(codec: str, change: Callable[[Tensor], Tensor], match: str) -> None:
    wrong = change(photograph())
    stem = wt.WallocStem(codec, 8, stride=8)
    model = wt.replace_stem(timm.create_model("vit_tiny_patch16_224", img_size=(64, 96), depth=1), codec)
    calls: list[Callable[[], Any]] = [
        lambda: wt.WallocEncode(codec)(wrong),
        lambda: wt.functional.encode_image(wrong, codec),
        lambda: wt.load_codec(codec).encode(wrong),
        lambda: wt.fit_codec([wrong], levels=2, channels=4, progress=False),
        lambda: stem(wrong[None]),
        lambda: model(wrong[None]),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=match):
            call()


def test_pcm_as_floats() -> None:
    wrong, codec = tone() * 32767, "stereo_20x"
    calls: list[Callable[[], Any]] = [
        lambda: wt.WallocEncode(codec)(wrong),
        lambda: wt.functional.encode_waveform(wrong, codec),
        lambda: wt.StreamEncoder(wt.load_codec(codec))(wrong),
        lambda: wt.fit_codec([wrong], levels=4, channels=4, progress=False),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="PCM as floats"):
            call()


def test_integers_and_floats_mean_the_same_everywhere() -> None:
    codec, image = wt.load_codec("rgb_16x"), (photograph() * 255).round().to(torch.uint8)
    latents = wt.WallocEncode(codec)(image)
    for same in (codec.encode(image), codec.encode(image / 255), wt.functional.encode_image(image / 255, codec)):
        torch.testing.assert_close(torch.as_tensor(latents), torch.as_tensor(same), rtol=0, atol=1e-3)
    stem = wt.WallocStem(codec, 8, stride=8)
    torch.testing.assert_close(stem(image[None]), stem(image[None] / 255), rtol=0, atol=1e-3)


def test_normalized_latents() -> None:
    normalized = wt.WallocEncode("rgb_16x", normalize=True)(photograph())
    image = wt.WallocDecode("rgb_16x")(normalized)  # Latents know that they are normalized
    torch.testing.assert_close(image, wt.WallocDecode("rgb_16x")(wt.WallocEncode("rgb_16x")(photograph())))
    torch.testing.assert_close(image, wt.load_codec("rgb_16x").decode(normalized))
    plain = normalized.as_subclass(Tensor)
    torch.testing.assert_close(wt.WallocDecode("rgb_16x", normalized=True)(plain), image)
    with pytest.raises(ValueError, match="normalized"):
        wt.WallocStem("rgb_16x", 8, stride=8, input="latents")(
            wt.WallocEncode("rgb_16x", normalize=True)(photograph()[None])
        )


def test_latents_of_another_codec(tmp_path: Path) -> None:
    latents = wt.WallocEncode("rgb_16x", quantize=True)(photograph())
    for call in (
        lambda: wt.WallocDecode("rgb_16x_viewing")(latents),
        lambda: wt.functional.decode_image(latents, "rgb_16x_viewing"),
        lambda: wt.load_codec("rgb_16x_viewing").decode(latents),
        lambda: wt.functional.decode_image(latents, wt.load_codec("rgb_4x", channels=12)),
        lambda: wt.save_latents(tmp_path / "a.wlc", latents, "rgb_16x_viewing", size=(64, 96)),
    ):
        with pytest.raises(ValueError, match="rgb_16x"):
            call()
    assert not (tmp_path / "a.wlc").exists()


def test_latents_of_a_file(tmp_path: Path) -> None:
    file, latents = tmp_path / "a.wlc", wt.WallocEncode("rgb_16x", quantize=True)(photograph()[:, :60, :90])
    wt.save_latents(file, latents, "rgb_16x")
    stored = wt.load_latents(file).latents
    assert torch.equal(wt.WallocDecode("rgb_16x")(stored), wt.WallocDecode("rgb_16x")(latents))
    with pytest.raises(ValueError, match="encoded by codec 'rgb_16x'"):
        wt.functional.decode_image(stored, "rgb_16x_viewing")
    assert type(wt.load_latents(file, channels=4).latents) is Tensor  # which have no fingerprint of their own


@pytest.mark.parametrize("normalized", [False, True])
def test_methods_of_codecs_compare_latents(normalized: bool) -> None:
    codec, encode = wt.load_codec("rgb_16x"), wt.WallocEncode("rgb_16x", normalize=normalized)
    foreign = wt.WallocEncode("rgb_16x_viewing", normalize=normalized)(photograph())
    for method in (codec.decode, codec.normalize, codec.denormalize, codec.expand):
        with pytest.raises(ValueError, match="encoded by codec 'rgb_16x_viewing'"):
            method(foreign)
    own = encode(photograph())
    for method in (codec.normalize, codec.expand) if normalized else (codec.denormalize,):
        with pytest.raises(ValueError, match="are normalized" if normalized else "not normalized"):
            method(own)
    if not normalized:
        with pytest.raises(ValueError, match="not normalized"):
            codec.decode(own, normalized=True)


def test_streams_compare_latents() -> None:
    codec, music = wt.load_codec("stereo_20x"), tone()
    with pytest.raises(ValueError, match="encoded by codec 'stereo_5x'"):
        wt.StreamDecoder(codec)(wt.functional.encode_waveform(music, wt.load_codec("stereo_5x", channels=27)))
    waves = []
    for normalize in (False, True):
        stream = wt.StreamDecoder(codec)
        frames = wt.functional.encode_waveform(music, codec, normalize=normalize)
        waves.append(torch.cat([stream(frames), stream.finish()], -1))
    torch.testing.assert_close(waves[1], waves[0], rtol=0, atol=1e-4)


def test_latents_normalized_by_other_statistics() -> None:
    codec = wt.load_codec("rgb_16x")
    measured = wt.fit_statistics(codec, [photograph() * 0.3], progress=False)
    assert measured.fingerprint() == codec.fingerprint()
    image = wt.WallocDecode(measured)(wt.WallocEncode(codec)(photograph()))  # these need no statistics
    normalized = wt.WallocEncode(measured, normalize=True)(photograph())
    torch.testing.assert_close(wt.WallocDecode(measured)(normalized), image)
    with pytest.raises(ValueError, match="normalized by other statistics"):
        wt.WallocDecode(codec)(normalized)


def test_integers_are_not_normalized() -> None:
    normalized = wt.WallocEncode("rgb_16x", normalize=True)(photograph())
    for latents in (normalized.to(torch.int8), normalized.to(torch.int8).as_subclass(Tensor)):
        with pytest.raises(ValueError, match=r"latents of dtype torch\.int8 are rounded"):
            wt.functional.decode_image(latents, "rgb_16x", normalized=True)


def test_sides_in_the_wrong_order() -> None:
    """They fill the same cells, but are not those that were encoded."""
    latents = wt.WallocEncode("rgb_16x")(photograph()[:, :63, :60])
    with pytest.raises(ValueError, match=r"size \(60, 63\) is beyond the signal.*\(63, 60\)"):
        wt.WallocDecode("rgb_16x", size=(60, 63))(latents)
    assert wt.WallocDecode("rgb_16x", size=(60, 60))(latents).shape == (3, 60, 60)


def test_values_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        wt.functional.decode_image(torch.full((12, 4, 4), torch.nan), "rgb_16x")
    with pytest.raises(ValueError, match="NaN or infinite"):
        wt.functional.encode_image(photograph().index_fill(1, torch.tensor(3), torch.inf), "rgb_16x")


ARRAY = (photograph().movedim(0, -1).numpy() * 255).astype(np.uint8)
IMAGE = tv_tensors.Image(photograph())
FORGOTTEN = {
    "an array alone": ARRAY,
    "an array and a label": (ARRAY, torch.tensor(3)),
    "an array beside a tensor that would be encoded for it": {"image": ARRAY, "normals": photograph()},
    "an array beside an image": (IMAGE, ARRAY.transpose(2, 0, 1)),
    "an array of floats beside an image": (IMAGE, ARRAY / 255),
    "a list of tensors": [photograph(), photograph()[:, :32]],
    "tensors under names": {"left": photograph(), "right": photograph()},
    "tensors of two dtypes": (torch.from_numpy(ARRAY).movedim(-1, 0), photograph()),
}


@pytest.mark.parametrize("sample", FORGOTTEN.values(), ids=FORGOTTEN)
def test_nothing_comes_back_unencoded(sample: Any) -> None:
    with pytest.raises(TypeError, match=r"v2.ToImage\(\) makes images of arrays|several tensors of one form"):
        wt.WallocEncode("rgb_16x")(sample)


def test_waveforms_and_latents_that_would_be_forgotten() -> None:
    for sample in ([tone(), tone()], {"mix": tone(), "vocals": tone()[:, :999]}, (tone().T.numpy(), torch.tensor(3))):
        with pytest.raises(TypeError, match=r"several tensors of one form|torch.from_numpy makes tensors"):
            wt.WallocEncode("stereo_20x")(sample)
    plain = wt.load_codec("rgb_16x").encode(photograph())
    with pytest.raises(TypeError, match="several tensors of one form"):
        wt.WallocDecode("rgb_16x")([plain, plain])


def test_labels_are_no_signals() -> None:
    """Refusing these would stop data sets that are right."""
    labels: list[Any] = [
        torch.tensor(3),
        torch.rand(64, 96),
        torch.rand(1, 64, 96),
        torch.zeros(3, 64, 96, dtype=torch.int64),
        np.zeros((40, 17, 3)),  # key points
        np.zeros((64, 96), np.uint8),
        np.zeros((3, 64, 96), np.int64),
    ]
    latents, *same = wt.WallocEncode("rgb_16x")((photograph(), *labels))
    assert isinstance(latents, wt.Latents)
    assert all(one is other for one, other in zip(same, labels, strict=True))
    assert wt.WallocEncode("rgb_16x")((IMAGE, photograph()))[1].shape == (3, 64, 96)  # as every v2 transform
    assert wt.functional.encode_image(torch.rand(4, 3, 64, 96), "rgb_16x").shape == (4, 12, 8, 12)
    batch = (torch.rand(3, 3, 64, 96), torch.rand(3, 64, 96))  # images and masks
    assert wt.WallocEncode("rgb_16x")(batch)[1] is batch[1]


@pytest.mark.parametrize(
    "target",
    [
        tv_tensors.Mask(torch.zeros(1, 64, 64)),
        bounding_boxes([[0, 0, 9, 9]], format="XYXY", canvas_size=(96, 64)),
    ],
)
def test_targets_of_another_size(target: Any) -> None:
    with pytest.raises(
        ValueError,
        match=r"targets of the size of their image: got .* of (64x64|96x64) pixels and an image of 64x96",
    ):
        wt.WallocEncode("rgb_16x", targets="rescale")((IMAGE, target))
    assert wt.WallocEncode("rgb_16x")((IMAGE, target))[1] is target


def test_an_array_is_no_image() -> None:
    with pytest.raises(TypeError, match="ndarray"):
        wt.functional.encode_image(ARRAY, "rgb_16x")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("codec", [None, 3, ["rgb_16x"], wt.Codec])
def test_what_is_no_codec(codec: Any) -> None:
    for use in (wt.load_codec, wt.WallocEncode, lambda c: wt.WallocStem(c, 8, stride=8)):
        with pytest.raises(TypeError, match=r"expected a codec, or the name of one or of a folder, got \w+$"):
            use(codec)


def test_codecs_that_are_given_stay_where_and_as_they_are() -> None:
    codec = wt.load_codec("rgb_16x")
    state = {name: value.clone() for name, value in codec.state_dict().items()}
    for made in (wt.WallocEncode(codec), wt.WallocDecode(codec), wt.WallocStem(codec, 8, stride=8)):
        made.to("meta")
    wt.fit_statistics(codec, [photograph()], progress=False)
    assert all(torch.equal(value, state[name]) for name, value in codec.state_dict().items())


def test_what_a_plain_tensor_does_not_tell() -> None:
    """These stay silent, and the documentation says so."""
    x, latents = photograph(), wt.load_codec("rgb_16x").encode(photograph())
    assert wt.functional.encode_image(x.flip(0), "rgb_16x").isfinite().all()  # BGR
    assert wt.functional.decode_image(latents, "rgb_16x_viewing").isfinite().all()
    assert wt.functional.decode_image(latents / 50, "rgb_16x").isfinite().all()  # as if normalized
    assert wt.WallocDecode("rgb_16x_viewing")(default_collate([latents])).isfinite().all()
    assert wt.functional.encode_image(x / 255, "rgb_16x").isfinite().all()  # once more than uint8 needs it
    assert wt.functional.encode_waveform(tone(), "stereo_20x").isfinite().all()  # of any rate, if none is named
