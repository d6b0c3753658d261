"""When the codec may take its folded path: surroundings, copies, compilation, training."""

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.testing import assert_close

from tests.helpers import (
    give_refiner,
    loaded_refiner,
    make_codec,
    make_refiner,
    reference_decode,
    reference_encode,
    signal,
)
from walloc_transforms.codec import Codec
from walloc_transforms.codec.folding import FoldedPath


@pytest.fixture(scope="module")
def frozen() -> Codec:
    """One codec for all tests that do not change it."""
    return make_codec()


def compile_whole(function: Callable, backend: str = "eager") -> Callable:
    torch.compiler.reset()  # or every test counts towards the limit of recompilations
    return torch.compile(function, fullgraph=True, backend=backend)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("plain", [False, True], ids=["folded", "plain"])
def test_autocast_changes_no_bit(dtype: torch.dtype, plain: bool) -> None:
    codec, x = make_codec().requires_grad_(plain), signal(2, 3, 16, 24)
    latents, decoded = codec.encode(x), codec.decode(codec.encode(x))
    with torch.autocast("cpu", dtype):
        assert torch.equal(codec.encode(x), latents)
        assert torch.equal(codec.decode(codec.encode(x)), decoded)


@pytest.mark.parametrize(
    "convert",
    [
        lambda c: c.half(),
        lambda c: c.bfloat16(),
        lambda c: c.double(),
        lambda c: c.to(torch.float64),
        lambda c: c.to("cpu", torch.bfloat16),
        lambda c: torch.nn.Sequential(c).half()[0],
        lambda c: c.float(),
    ],
    ids=["half", "bfloat16", "double", "to", "to device", "parent", "float"],
)
def test_conversion_changes_no_bit(convert: Callable[[Codec], Codec]) -> None:
    codec, x = make_codec(), signal(2, 3, 16, 24)
    state, latents, decoded = copy.deepcopy(codec.state_dict()), codec.encode(x), codec.decode(codec.encode(x))
    converted = convert(codec)
    assert all(torch.equal(converted.state_dict()[k], v) for k, v in state.items())
    assert torch.equal(converted.encode(x), latents)
    assert torch.equal(converted.decode(latents), decoded)
    assert_close(converted.requires_grad_().encode(x).detach(), latents, rtol=0, atol=1e-3)


COPIES = {
    "itself": lambda codec: codec,
    "deepcopy": copy.deepcopy,
    "pickle": lambda codec: pickle.loads(pickle.dumps(codec)),
    "prefix": lambda codec: codec.prefix(12),
}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("encode_there", [False, True])
def test_made_in_inference_mode(make: Callable[[Codec], Codec], encode_there: bool) -> None:
    x = signal(2, 3, 16, 24)
    with torch.inference_mode():
        codec = make(make_codec())
        if encode_there:
            codec.decode(codec.encode(x))
    x.requires_grad_()
    codec.decode(codec.encode(x)).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert_close(codec.encode(x).detach(), reference_encode(codec, x.detach()), rtol=0, atol=1e-3)


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_copies_encode_alike_and_apart(make: Callable[[Codec], Codec], requires_grad: bool) -> None:
    original, x = make_codec().requires_grad_(requires_grad), signal(2, 3, 16, 24)
    latents, decoded = original.encode(x), original.decode(original.encode(x))
    copied = make(original)
    assert copied.config == original.config
    assert_close(copied.encode(x), latents, rtol=0, atol=1e-3 if requires_grad else 0)
    assert_close(copied.decode(latents), decoded, rtol=0, atol=1e-3 if requires_grad else 0)
    if copied is not original:
        with torch.no_grad():
            copied.weight.zero_()
        assert torch.equal(original.encode(x), latents)
        assert not torch.allclose(copied.encode(x), latents)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(17, 24), (100,)])
@pytest.mark.parametrize("plain", [False, True], ids=["folded", "plain"])
def test_compiles_whole(size: tuple[int, ...], plain: bool) -> None:
    codec = make_codec(12, 3, 3, len(size)).requires_grad_(plain)
    x = signal(2, 3, *size)
    latents = codec.encode(x).detach()
    decoded = codec.decode(latents, size=size)
    compiled = compile_whole(codec.encode, "aot_eager")
    assert_close(compiled(x), latents, rtol=0, atol=1e-3)
    assert_close(compiled(x, rounding="round"), latents.round(), rtol=0, atol=1)
    compiled = compile_whole(codec.decode, "aot_eager")
    assert_close(compiled(latents, size=size), decoded, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_compiles_to_machine_code(frozen: Codec) -> None:
    x = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)
    latents = frozen.encode(x)
    compiled = compile_whole(frozen.encode, "inductor")
    assert_close(compiled(x), latents, rtol=0, atol=1e-3)


class Decoding(torch.nn.Module):
    """To an odd size: one row and one column are cut off."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.codec.decode(latents, size=(8 * latents.shape[2] - 1, 8 * latents.shape[3] - 1))


@pytest.mark.slow
def test_exported_for_any_size(frozen: Codec) -> None:
    model, latents = Decoding(frozen), frozen.encode(signal(1, 3, 48, 56))
    model(latents)
    sides = {axis: torch.export.Dim(f"side{axis}", min=5, max=100) for axis in (2, 3)}
    program = torch.export.export(model, (latents,), dynamic_shapes=(sides,)).module()
    other = frozen.encode(signal(1, 3, 80, 40))
    assert_close(program(other), model(other), rtol=0, atol=1e-4)


def test_frozen_at_first(frozen: Codec) -> None:
    for codec in (frozen, Codec(frozen.config).train()):
        assert not any(p.requires_grad for p in codec.parameters())
        latents = codec.encode(signal(1, 3, 8, 8))
        assert not latents.requires_grad
        assert not codec.decode(latents).requires_grad


def test_gradients_reach_every_parameter() -> None:
    codec, x = make_codec().requires_grad_(), signal(2, 3, 16, 24)
    latents = codec.encode(x, rounding="noise")
    codec.decode(latents).square().mean().backward()
    for name, p in codec.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("plain", [False, True], ids=["folded", "plain"])
def test_gradient_of_the_input(plain: bool) -> None:
    codec, x = make_codec().requires_grad_(plain), signal(2, 3, 17, 24).requires_grad_()
    (ours,) = torch.autograd.grad(codec.encode(x).sum(), x)
    (expected,) = torch.autograd.grad(reference_encode(codec, x).sum(), x)
    assert_close(ours, expected, rtol=1e-4, atol=2e-2)  # of gradients up to several hundred


def train_a_step(codec: Codec) -> None:
    optimizer = torch.optim.SGD(codec.requires_grad_().parameters(), lr=1e-2)
    codec.decode(codec.encode(signal(2, 3, 16, 24))).square().sum().backward()
    optimizer.step()
    codec.requires_grad_(False)


def in_place(codec: Codec) -> None:
    with torch.no_grad():
        codec.bias.add_(3)
        codec.decoder.bias.add_(0.1)


def assign_again(codec: Codec) -> None:
    for _ in range(3):  # parameters may come to lie where earlier ones were
        codec.load_state_dict(make_codec().state_dict(), assign=True)


def replace_twice(codec: Codec) -> None:
    """The second may come to lie where the weights were that the first has replaced."""
    for _ in range(2):
        codec.weight.data = codec.weight.data * 0.5


CHANGES = {
    "train": train_a_step,
    "in place": in_place,
    "in inference mode": torch.inference_mode()(in_place),
    "load": lambda codec: codec.load_state_dict(make_codec().state_dict()),
    "assign": lambda codec: codec.load_state_dict(make_codec().state_dict(), assign=True),
    "assign again": assign_again,
    "new parameter": lambda codec: setattr(codec, "weight", torch.nn.Parameter(codec.weight * 0.5, False)),
    "new data": lambda codec: setattr(codec.weight, "data", codec.weight * 0.5),
    "new data twice": replace_twice,
    "vector": lambda codec: vector_to_parameters(
        0.5 * parameters_to_vector(codec.parameters()).detach(), codec.parameters()
    ),
    "new decoder": lambda codec: setattr(codec, "decoder", make_codec().decoder),
}


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_folded_path_follows_the_weights(change: Callable[[Codec], object], compiled: bool) -> None:
    codec, x = make_codec(), signal(2, 3, 16, 24)
    before, decoded = codec.encode(x), codec.decode(codec.encode(x))
    change(codec)
    encode, decode = codec.encode, codec.decode
    if compiled:
        encode, decode = compile_whole(encode), compile_whole(decode)
    assert_close(encode(x), reference_encode(codec, x), rtol=0, atol=1e-3)
    assert_close(decode(before), reference_decode(codec, before), rtol=0, atol=1e-3)
    assert not torch.allclose(codec.encode(x), before) or not torch.allclose(codec.decode(before), decoded)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_fingerprint_follows_the_weights(change: Callable[[Codec], object]) -> None:
    codec = make_codec()
    codec.fingerprint()
    change(codec)
    copied = Codec(codec.config)
    copied.load_state_dict(codec.state_dict())
    assert codec.fingerprint() == copied.fingerprint()


class Encoding(torch.nn.Module):
    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.codec.encode(x)


def test_parameters_for_one_call() -> None:
    """Those of a call may have the ``id`` of those of the call before, which are gone."""
    codec, x = make_codec(), signal(2, 3, 16, 24)
    model, weight = Encoding(codec), codec.weight.detach().clone()
    for factor in (1.0, 0.5, 0.25, 0.125):
        latents = torch.func.functional_call(model, {"codec.weight": weight * factor}, (x,))
        expected = copy.deepcopy(codec)
        expected.weight.copy_(weight * factor)
        assert_close(latents, reference_encode(expected, x), rtol=0, atol=1e-3)


def test_parameters_that_a_transform_of_functions_wraps() -> None:
    codec, x = make_codec(), signal(2, 3, 16, 24)

    def total(weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(Encoding(codec), {"codec.weight": weight}, (x,)).sum()

    codec.requires_grad_()
    expected = torch.autograd.grad(codec.encode(x).sum(), codec.weight)[0]
    assert_close(torch.func.grad(total)(codec.weight.detach()), expected)


@pytest.mark.parametrize("make", [COPIES["pickle"], COPIES["prefix"]], ids=["pickle", "prefix"])
def test_compiled_before_any_eager_call(make: Callable[[Codec], Codec]) -> None:
    codec, x = make(make_codec()), signal(2, 3, 16, 24)
    latents = compile_whole(codec.encode)(x)
    assert_close(latents, reference_encode(codec, x), rtol=0, atol=1e-3)


@pytest.fixture
def refined() -> Codec:
    return give_refiner(make_codec())


def refine(codec: Codec, latents: torch.Tensor) -> torch.Tensor:
    return codec.decode(latents, decoder="refiner")


@pytest.mark.parametrize("plain", [False, True], ids=["folded", "plain"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_no_bit_of_a_refiner(refined: Codec, dtype: torch.dtype, plain: bool) -> None:
    latents = refined.requires_grad_(plain).encode(signal(2, 3, 16, 24)).detach()
    decoded = refine(refined, latents)
    with torch.autocast("cpu", dtype):
        assert torch.equal(refine(refined, latents), decoded)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    "convert", [lambda c: c.half(), lambda c: c.to(torch.bfloat16), lambda c: c.double(), lambda c: c.train()]
)
def test_conversion_changes_no_bit_of_a_refiner(
    refined: Codec, convert: Callable[[Codec], Codec], lazy: bool, tmp_path: Path
) -> None:
    latents = refined.encode(signal(2, 3, 16, 24))
    decoded = refine(refined, latents)
    refined.save_pretrained(tmp_path)
    codec = convert(Codec.from_pretrained(tmp_path) if lazy else refined)
    assert torch.equal(refine(codec, latents), decoded)
    assert all(value.dtype == torch.float32 for value in codec.state_dict().values())


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_copies_of_refiners(refined: Codec, make: Callable[[Codec], Codec], requires_grad: bool) -> None:
    latents = refined.encode(signal(2, 3, 16, 24))
    decoded = refine(refined.requires_grad_(requires_grad), latents)
    copied = make(refined)
    assert torch.equal(refine(copied, latents), decoded)
    if copied is not refined:
        with torch.no_grad():
            loaded_refiner(copied).head.zero_()
        assert torch.equal(refine(refined, latents), decoded)
        assert not torch.allclose(refine(copied, latents), decoded)


def train_refiner(codec: Codec) -> None:
    refiner = loaded_refiner(codec).requires_grad_()
    optimizer = torch.optim.SGD(refiner.parameters(), lr=1e-2)
    refine(codec, codec.encode(signal(2, 3, 16, 24))).square().sum().backward()
    optimizer.step()
    refiner.requires_grad_(False)


def write_head(codec: Codec) -> None:
    with torch.no_grad():
        loaded_refiner(codec).head.mul_(0.5)


def other_state() -> dict[str, torch.Tensor]:
    return make_refiner(12, 192).state_dict()


def set_twice(codec: Codec) -> None:
    give_refiner(codec)
    give_refiner(codec, blocks=2)


REFINER_CHANGES = {
    "train": train_refiner,
    "head": write_head,
    "head in inference mode": torch.inference_mode()(write_head),
    "scale": lambda codec: loaded_refiner(codec).scale.mul_(0.5),
    "new scale": lambda codec: setattr(codec.refiner, "scale", loaded_refiner(codec).scale * 0.5),
    "stem": lambda codec: loaded_refiner(codec).stem.weight.zero_(),
    "load": lambda codec: loaded_refiner(codec).load_state_dict(other_state()),
    "assign": lambda codec: loaded_refiner(codec).load_state_dict(other_state(), assign=True),
    "load codec": lambda codec: codec.load_state_dict(give_refiner(make_codec()).state_dict()),
    "set": give_refiner,
    "set twice": set_twice,
    "new refiner": lambda codec: setattr(codec, "refiner", make_refiner(12, 192)),
    "linear decoder": in_place,
    "linear decoder, then set": lambda codec: (in_place(codec), give_refiner(codec)),
    "statistics": lambda codec: codec.latent_mean.add_(9),
}


@pytest.mark.parametrize("change", REFINER_CHANGES.values(), ids=REFINER_CHANGES)
def test_refined_decoding_follows_the_weights(refined: Codec, change: Callable[[Codec], object]) -> None:
    x = signal(2, 3, 16, 24)
    latents = refined.encode(x)
    before = refine(refined, latents)
    change(refined)
    assert_close(refined.encode(x), reference_encode(refined, x), rtol=0, atol=1e-3)
    assert_close(refined.decode(latents), reference_decode(refined, latents), rtol=0, atol=1e-3)
    assert_close(refine(refined, latents), reference_decode(refined, latents, refined=True), rtol=0, atol=1e-3)
    assert not torch.allclose(refine(refined, latents), before, atol=1e-2)


@pytest.mark.parametrize("way", ["set", "read"])
def test_a_new_refiner_hides_no_change_of_the_weights(way: str, tmp_path: Path) -> None:
    codec, x = give_refiner(make_codec()), signal(2, 3, 16, 24)
    codec.save_pretrained(tmp_path)
    codec = Codec.from_pretrained(tmp_path)
    latents = codec.encode(x)
    in_place(codec)
    codec.load_refiner() if way == "read" else give_refiner(codec)
    assert_close(codec.encode(x), reference_encode(codec, x), rtol=0, atol=1e-3)
    assert_close(codec.decode(latents), reference_decode(codec, latents), rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [(17, 24), (100,)])
@pytest.mark.parametrize("tile", [None, 16])
def test_gradients_of_refined_decoding(size: tuple[int, ...], tile: int | None) -> None:
    codec = give_refiner(make_codec(dims=len(size)))
    latents = codec.encode(signal(2, 3, *size)).requires_grad_()
    direction = torch.randn(2, 3, *[-(-side // 8) * 8 for side in size])
    expected = torch.autograd.grad((reference_decode(codec, latents, refined=True) * direction).sum(), latents)
    for plain in (False, True):
        decoded = codec.requires_grad_(plain).decode(latents, decoder="refiner", tile=tile)
        own = torch.autograd.grad((decoded * direction).sum(), latents, retain_graph=plain)
        assert_close(own, expected, rtol=1e-3, atol=1e-3)
    (decoded * direction).sum().backward()
    for name, p in codec.named_parameters():
        if name.startswith(("refiner.", "decoder.")):
            assert p.grad is not None, name
            assert p.grad.abs().sum() > 0, name


def test_a_refiner_can_be_trained_but_for_its_head(refined: Codec) -> None:
    refiner = loaded_refiner(refined)
    refiner.stem.requires_grad_()
    latents = 40 * torch.randn(1, 12, 4, 5)
    decoded = refine(refined, latents)  # folded
    decoded.square().sum().backward()
    own = refiner.stem.weight.grad
    assert own is not None
    refiner.stem.weight.grad = None
    refine(refined.requires_grad_(), latents).square().sum().backward()
    assert refiner.stem.weight.grad is not None
    assert_close(own, refiner.stem.weight.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("make", [lambda codec: codec, lambda codec: codec.prefix(5)], ids=["whole", "prefix"])
@pytest.mark.parametrize("prefix_first", [True, False])
def test_refiner_read_in_inference_mode(
    refined: Codec, make: Callable[[Codec], Codec], prefix_first: bool, tmp_path: Path
) -> None:
    refined.save_pretrained(tmp_path)
    with torch.inference_mode():
        codec = Codec.from_pretrained(tmp_path)
        codec = make(codec) if prefix_first else codec
        codec.decode(torch.zeros(codec.config.channels, 2, 2), decoder="refiner")
        codec = codec if prefix_first else make(codec)
    latents = (40 * torch.randn(2, codec.config.channels, 4, 5)).requires_grad_()
    refine(codec, latents).square().sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0
    train_refiner(codec)
    expected = reference_decode(codec, latents.detach(), refined=True)
    assert_close(refine(codec, latents.detach()), expected, rtol=0, atol=1e-3)


def test_refined_decoding_compiles_whole(refined: Codec) -> None:
    latents = refined.encode(signal(2, 3, 17, 24))
    compiled = compile_whole(lambda z: refined.decode(z, size=(17, 24), decoder="refiner"))
    expected = reference_decode(refined, latents, refined=True)[..., :17, :]
    assert_close(compiled(latents), expected, rtol=0, atol=1e-3)


def test_nothing_is_folded_before_it_is_needed() -> None:
    codec = make_codec()
    paths = [module for module in codec.modules() if isinstance(module, FoldedPath)]
    assert [path.folded for path in paths] == [None] * 3
    latents = codec.encode(signal(1, 3, 16, 16))
    assert sum(path.folded is not None for path in paths) == 1
    codec.decode(latents)
    assert sum(path.folded is not None for path in paths) == 2


def test_threads_may_share_a_codec_from_the_first_call_on(refined: Codec, tmp_path: Path) -> None:
    x = signal(2, 3, 40, 48)
    refined.save_pretrained(tmp_path)
    latents = refined.encode(x)
    expected = refine(refined, latents)

    def work(codec: Codec) -> bool:
        return torch.equal(codec.encode(x), latents) and torch.equal(refine(codec, latents), expected)

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            cold = Codec.from_pretrained(tmp_path)
            assert all(pool.map(work, [cold] * 8))
