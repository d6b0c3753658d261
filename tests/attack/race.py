"""Use one codec from many threads at the moment it is first used: the results are those of one thread, bit by bit.

    python -m tests.attack.race --starts 1000

Every start takes codecs that nothing has been computed with, and lets threads that wait for one another do everything a
codec does, in different orders. Then a thread loads other weights and the first ones in turn, while the others encode
and decode. Python switches between threads as often as it can.
"""

import argparse
import contextlib
import copy
import pickle
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

import walloc_transforms as wt
from walloc_transforms.codec import Codec

THREADS = 6

Work = Callable[[Codec], Tensor]
"""Something that is done with a codec, and can be compared."""


def works_with(codec: Codec) -> dict[str, Work]:
    """List what threads do with a codec, by name."""
    c = codec.config
    generator = torch.Generator().manual_seed(0)
    signal = torch.rand(2, c.signal_channels, *[3 * c.stride] * c.dims, generator=generator)
    latents = codec.encode(signal, rounding="round")
    few = c.channels // max(2, c.stages)
    works: dict[str, Work] = {
        "encode": lambda codec: codec.encode(signal),
        "decode": lambda codec: codec.decode(latents),
        "normalize": lambda codec: codec.normalize(latents),
        "fingerprint": lambda codec: torch.frombuffer(bytearray.fromhex(codec.fingerprint()), dtype=torch.uint8),
        "prefix": lambda codec: codec.prefix(few).encode(signal),
        "copy": lambda codec: copy.deepcopy(codec).encode(signal),
        # what this process has just pickled
        "pickle": lambda codec: pickle.loads(pickle.dumps(codec)).encode(signal),
        "move": lambda codec: codec.half().to("cpu").requires_grad_(False).encode(signal),
    }
    if c.refiner_width:
        works["refiner"] = lambda codec: codec.decode(latents, decoder="refiner")
    return works


def run_together(
    codec: Codec, works: Mapping[str, Work], right: Mapping[str, Sequence[Tensor]], seed: int
) -> list[str]:
    """Let threads work with a codec, all at once.

    Args:
        codec: The codec.
        works: What they do, twice each.
        right: Results that are right, by the name of the work.
        seed: Decides the orders.

    Returns:
        What went wrong.
    """
    barrier, wrong = threading.Barrier(THREADS), []

    def use(thread: int) -> None:
        names = [*works, *works]
        random.Random(seed * THREADS + thread).shuffle(names)
        barrier.wait()
        for name in names:
            try:
                result = works[name](codec)
            except Exception as error:
                wrong.append(f"{name}: {type(error).__name__}: {error}")
            else:
                if not any(torch.equal(result, value) for value in right[name]):
                    wrong.append(f"{name}: another result")

    threads = [threading.Thread(target=use, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


@contextlib.contextmanager
def _loading(codec: Codec, states: Sequence[Mapping[str, Tensor]]) -> Iterator[None]:
    """Let a thread load weights in turn."""
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            for state in states:
                codec.load_state_dict(state)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def _switching_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def _other_weights(codec: Codec) -> dict[str, Tensor]:
    """Make weights that give other latents and signals."""
    scaled = ("weight", "bias", "decoder.weight", "decoder.bias")
    return {name: value / 2 if name in scaled else value.clone() for name, value in codec.state_dict().items()}


def race(name: str, starts: int, seed: int = 0) -> Counter[str]:
    """Start many times; returns what went wrong, counted."""
    wrong: Counter[str] = Counter()
    serial, other = wt.load_codec(name), wt.load_codec(name)
    works = works_with(serial)
    states = [_other_weights(serial), serial.state_dict()]
    other.load_state_dict(states[0])
    right = {work: [do(serial)] for work, do in works.items()}
    linear = {work: works[work] for work in ("encode", "decode")}
    either = {work: [do(serial), do(other)] for work, do in linear.items()}
    states[1] = {key: value.clone() for key, value in wt.load_codec(name).state_dict().items()}
    with _switching_often():
        for i in range(seed, seed + starts):
            wrong.update(run_together(wt.load_codec(name), works, right, i))
            codec = wt.load_codec(name)
            with _loading(codec, states):
                wrong.update(f"loading, {what}" for what in run_together(codec, linear, either, i))
    return Counter({f"{name}: {what}": count for what, count in wrong.items()})


def main() -> None:
    """Race, and print what went wrong."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--starts", type=int, default=100, help="cold starts of each codec, and as many with loading")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--codecs", nargs="+", default=wt.available_codecs())
    asked = options.parse_args()
    for name in asked.codecs:
        wrong = race(name, asked.starts, asked.seed)
        print(f"{name}: {asked.starts} cold starts, {THREADS} threads: {sum(wrong.values())} wrong", flush=True)
        for what, count in wrong.most_common(10):
            print(f"{count:>6}  {what}")


if __name__ == "__main__":
    main()
