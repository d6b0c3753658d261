"""``WallocStem`` by itself; ``test_replace.py`` puts it into models."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import walloc_transforms as wt
from tests.helpers import pixels, stem_codec
from walloc_transforms.codec import Codec, CodecConfig
from walloc_transforms.stems import WallocPatchEmbed, WallocStem

INPUTS = ["pixels", "latents"]


@pytest.fixture(scope="module")
def codec() -> Codec:
    return stem_codec()


# the layer


@pytest.mark.parametrize("stride", [8, 16, 24])
@pytest.mark.parametrize(
    ("layout", "order"), [("NCHW", lambda y: y), ("NHWC", lambda y: y.permute(0, 2, 3, 1)), ("NLC", lambda y: y)]
)
def test_stem_is_a_projection_of_normalized_latents(
    codec: Codec, stride: int, layout: Any, order: Callable[[Tensor], Tensor]
) -> None:
    stem = WallocStem(codec, 5, stride=stride, output_fmt=layout)
    x = pixels(96)[:, :, :48]
    z = (codec.encode(x) - codec.latent_mean[:, None, None]) / codec.latent_std[:, None, None]
    k = stride // 8
    cells = z.unfold(2, k, k).unfold(3, k, k)
    expected = torch.einsum("ndhwij,odij->nohw", cells, stem.proj.weight) + stem.proj.bias[:, None, None]  # pyright: ignore[reportOptionalSubscript]
    expected = expected.flatten(2).transpose(1, 2) if layout == "NLC" else order(expected)
    torch.testing.assert_close(stem(x), expected, rtol=1e-4, atol=1e-4)
    assert stem.grid_size((48, 96)) == (48 // stride, 96 // stride)


def test_stem_inputs_agree(codec: Codec) -> None:
    from_pixels = WallocStem(codec, 5, stride=16)
    from_latents = WallocStem(codec, 5, stride=16, input="latents")
    from_latents.load_state_dict(from_pixels.state_dict())
    levels = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    x = levels / 255
    assert torch.equal(from_pixels(x), from_latents(codec.encode(x)))
    fine = (levels.to(torch.int32) * 257).to(torch.uint16)
    for integers in (levels, fine):
        torch.testing.assert_close(from_pixels(integers), from_pixels(x), rtol=1e-4, atol=1e-4)
    codes = codec.encode(x, rounding="round").to(torch.int8)
    assert torch.equal(from_latents(codes), from_latents(codes.float()))
    assert from_latents(codes[:0]).shape == (0, 5, 2, 3)
    assert from_latents.input_size((30, 48)) == (4, 6) and from_pixels.input_size((30, 48)) == (30, 48)


def test_sides_are_filled_up_to_whole_latents(codec: Codec) -> None:
    stem = WallocStem(codec, 5, stride=16)
    assert stem(pixels(60)).shape == (2, 5, 4, 4)
    assert stem.grid_size((60, 60)) == (4, 4)
    with pytest.raises(
        ValueError, match=r"reads 2x2 latents per cell.*multiples of 2, got \(9, 9\) latents from pixels"
    ):
        stem(pixels(72))


def test_bias_and_embedded_names() -> None:
    stem = WallocStem("rgb_16x", 5, stride=8, bias=False)
    assert stem.proj.bias is None
    assert stem(pixels(16)).shape == (2, 5, 2, 2)
    assert repr(stem).splitlines() == [
        "WallocStem(",
        "  input='pixels', stride=8, output_fmt='NCHW'",
        f"  (codec): {stem.codec!r}",
        "  (adapter): Identity()",
        "  (proj): Conv2d(12, 5, kernel_size=(1, 1), stride=(1, 1), bias=False)",
        ")",
    ]


def test_stem_is_deterministic_and_its_codec_apart(codec: Codec) -> None:
    before = {k: v.clone() for k, v in codec.state_dict().items()}
    trainable = copy.deepcopy(codec).requires_grad_(True)
    stem = WallocStem(trainable, 5, stride=8).train()
    assert all(p.requires_grad for p in trainable.parameters())
    assert not any(p.requires_grad for p in stem.codec.parameters())
    x = pixels(32)
    assert torch.equal(stem(x), stem(x))
    assert torch.equal(stem.train()(x), stem.eval()(x))
    stem.train().requires_grad_(True)  # as code that unfreezes everything does
    optimizer = torch.optim.AdamW(stem.parameters(), lr=0.1, weight_decay=0.1)
    stem(x).square().sum().backward()
    assert {name for name, p in stem.named_parameters() if p.grad is not None} == {"proj.weight", "proj.bias"}
    optimizer.step()
    assert all(torch.equal(v, before[k]) for k, v in stem.codec.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_codec_stays_float32(codec: Codec, dtype: torch.dtype) -> None:
    x = pixels(32)
    expected = codec.normalize(codec.encode(x))
    for move in (lambda s: s.to(dtype), lambda s: s.to(torch.float64).to(dtype), lambda s: s.half().to(dtype)):
        stem = move(WallocStem(codec, 5, stride=8))
        assert [t.dtype for t in stem.codec.parameters()] == [torch.float32] * 4
        assert [t.dtype for t in stem.codec.buffers()] == [t.dtype for t in codec.buffers()]
        assert torch.equal(stem.codec.encode(x), codec.encode(x))
        assert stem(x).dtype == stem.proj.weight.dtype == dtype
        seen: list[Tensor] = []
        stem.proj.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        stem(x)
        assert torch.equal(seen[0], expected.to(dtype))


def test_autocast_reaches_only_the_projection(codec: Codec) -> None:
    x, seen = pixels(32), []
    stem = WallocStem(codec, 5, stride=8)
    stem.proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.autocast("cpu", torch.bfloat16):
        assert stem(x).dtype == torch.bfloat16
    assert seen[0].dtype == torch.float32
    assert torch.equal(seen[0], codec.normalize(codec.encode(x)))


def test_stem_options_are_checked(codec: Codec) -> None:
    for stride in (0, -8, 3, 12):
        with pytest.raises(ValueError, match=f"multiple or a divisor of 8, the stride of codec 'test', got {stride}"):
            WallocStem(codec, 5, stride=stride)
    with pytest.raises(ValueError, match="input must be one of 'pixels', 'latents', got 'image'"):
        WallocStem(codec, 5, stride=8, input="image")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="output_fmt must be one of 'NCHW', 'NHWC', 'NLC', got 'NCL'"):
        WallocStem(codec, 5, stride=8, output_fmt="NCL")  # pyright: ignore[reportArgumentType]
    audio = Codec(CodecConfig("sound", "audio", 2, 4, 3))
    with pytest.raises(ValueError, match="a codec of images or volumes, 'sound' is for audio"):
        WallocStem(audio, 5, stride=8)
    with pytest.raises(ValueError, match="unknown codec 'rgb_17x'"):
        WallocStem("rgb_17x", 5, stride=8)


def test_stem_inputs_are_checked(codec: Codec) -> None:
    from_pixels = WallocStem(codec, 5, stride=8)
    from_latents = WallocStem(codec, 5, stride=8, input="latents")
    with pytest.raises(ValueError, match=r"12 channels of codec 'test'.*got 3 channels: pixels\?.*input='pixels'"):
        from_latents(pixels(32))
    with pytest.raises(ValueError, match=r"3 channels for codec 'test'.*got 12 channels: latents\?.*input='latents'"):
        from_pixels(torch.zeros(1, 12, 4, 4))
    with pytest.raises(ValueError, match=r"got 4 channels$"):
        from_pixels(torch.zeros(1, 4, 16, 16))
    with pytest.raises(ValueError, match=r"a batch of four dimensions; got shape \(3, 16, 16\)$"):
        from_pixels(torch.zeros(3, 16, 16))
    with pytest.raises(TypeError, match=r"pixels as float or torch.uint8 or torch.uint16, got torch.int8"):
        from_pixels(torch.zeros(1, 3, 16, 16, dtype=torch.int8))
    with pytest.raises(TypeError, match=r"latents as float or torch.int8, got torch.uint8"):
        from_latents(torch.zeros(1, 12, 4, 4, dtype=torch.uint8))


EMBED_LAYERS: dict[str, Callable[..., nn.Module]] = {
    "vit": lambda embed, **options: VisionTransformer(
        img_size=64, embed_dim=48, depth=2, num_heads=3, num_classes=5, embed_layer=embed, **options
    ),
    "vit on any size": lambda embed, **options: VisionTransformer(
        img_size=64,
        embed_dim=48,
        depth=2,
        num_heads=3,
        num_classes=5,
        embed_layer=embed,
        dynamic_img_size=True,
        **options,
    ),
    "swin": lambda embed, **options: SwinTransformer(
        img_size=64,
        patch_size=4,
        window_size=4,
        embed_dim=24,
        depths=(1, 1),
        num_heads=(2, 2),
        num_classes=5,
        embed_layer=embed,
        **options,
    ),
}


# timm resamples Swin's positions by means that torch deprecates
@pytest.mark.filterwarnings("ignore:torch.searchsorted", "ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("kind", ["pixels", "latents"])
@pytest.mark.parametrize("make", EMBED_LAYERS.values(), ids=EMBED_LAYERS)
def test_timm_makes_models_with_the_patch_embedding(codec: Codec, make: Callable[..., Any], kind: Any) -> None:
    model = make(partial(WallocPatchEmbed, codec=codec, input=kind))
    assert isinstance(model.patch_embed, WallocPatchEmbed)
    x = pixels(64) if kind == "pixels" else codec.encode(pixels(64))
    logits = model.train()(x)
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "codec" not in name)
    again = make(partial(WallocPatchEmbed, codec=codec, input=kind))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(x), model.eval()(x))
    assert len(model.forward_intermediates(x, intermediates_only=True)) == 2
    larger = pixels(128) if kind == "pixels" else codec.encode(pixels(128))
    model.set_input_size(img_size=128)
    assert model(larger).shape == (2, 5)


def test_patch_embedding_refuses(codec: Codec) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "expected a codec"),
        ({"codec": codec, "patch_size": (16, 8)}, "square patches"),
        ({"codec": codec, "dynamic_img_pad": True}, "dynamic_img_pad must be False"),
        ({"codec": codec, "in_chans": 4}, "in_chans must be 3, the channels of the pixels that the stem reads, got 4"),
        ({"codec": codec, "img_size": 60}, "multiples of 16 pixels"),
        ({"codec": codec, "patch_size": 12}, "multiple or a divisor of 8"),
    ]
    for options, match in cases:
        with pytest.raises(ValueError, match=match):
            WallocPatchEmbed(**options)


def test_patch_embedding_of_a_stem(codec: Codec) -> None:
    stem = WallocStem(codec, 48, stride=16)
    embed = WallocPatchEmbed(64, stem=stem, norm_layer=nn.LayerNorm)
    assert embed(pixels(64)).shape == (2, 16, 48)
    cases: list[dict[str, Any]] = [{"patch_size": 32}, {"embed_dim": 96}]
    for options in cases:
        with pytest.raises(ValueError, match="the stem has patches of 16 pixels and 48 channels, got patch_size="):
            WallocPatchEmbed(64, stem=stem, **options)


def test_sizes_of_a_stem(codec: Codec) -> None:
    sides: Any = np.int64(16)
    assert WallocStem(codec, 5, stride=sides).strides == (16, 16)
    cases: list[dict[str, Any]] = [{"out_channels": 0}, {"out_channels": 5, "neighbors": -1}]
    for options in cases:
        with pytest.raises(ValueError, match="out_channels of at least 1 and neighbors of at least 0, got"):
            WallocStem(codec, stride=16, **options)


def test_device_and_dtype_are_those_of_the_projection(codec: Codec) -> None:
    stem = WallocStem(codec, 5, stride=16, device="meta", dtype=torch.bfloat16)
    assert (stem.proj.weight.device.type, stem.proj.weight.dtype) == ("meta", torch.bfloat16)
    assert (stem.codec.weight.device.type, stem.codec.weight.dtype) == ("meta", torch.float32)
    assert codec.weight.device.type == "cpu"
    embed = WallocPatchEmbed(codec=codec, norm_layer=nn.LayerNorm, device="meta", dtype=torch.bfloat16)
    assert isinstance(embed.norm, nn.LayerNorm)
    assert (embed.norm.weight.device.type, embed.norm.weight.dtype) == ("meta", torch.bfloat16)


def test_latents_of_another_codec_or_normalized_ones(codec: Codec) -> None:
    stem, x = WallocStem("rgb_16x", 5, stride=8, input="latents"), pixels(64)
    plain = wt.load_codec("rgb_16x").encode(x)
    assert torch.equal(stem(wt.functional.encode_image(x, "rgb_16x")), stem(plain))
    with pytest.raises(ValueError, match=r"encoded by codec 'test'.*not by 'rgb_16x'"):
        stem(wt.functional.encode_image(x, codec))
    with pytest.raises(ValueError, match="normalizes latents itself"):
        stem(wt.functional.encode_image(x, "rgb_16x", normalize=True))
