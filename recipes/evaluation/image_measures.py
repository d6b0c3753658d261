"""One image: encoded and decoded by a codec, by resizing and by lossy formats, and what each gives.

A codec's latents are rounded and written to a file, the image is decoded from that file, rounded to 8 bits and cut to
its size; figures and times are of the same pass. Encoding is from 8-bit pixels to the file, decoding back. A refiner,
if the codec has one, decodes the same file.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from torch import Tensor

import walloc_transforms as wt
from recipes.common.codecs import decoders_of, stored_dtype
from recipes.common.quality import Networks, measure_quality, to_8_bits
from recipes.common.tables import Record
from recipes.evaluation.image_formats import FORMATS, HIGHEST, LossyImage, resize
from walloc_transforms.files import CODERS, load_latents, save_latents

MOSAIC = "mosaic"
"""The coder that is not one of latent files: a lossless WebP image of all channels side by side, as in the paper."""

IMAGE_CODERS = (MOSAIC, *CODERS)

RATE_QUALITIES = (5, 20, 40, 60, 75, 85, 92, 97)
"""Of the lossy formats, on their rate-distortion curves."""

NO_NETWORKS = Networks()
"""For figures that need none."""


class Photo:
    """An image with what several codecs compare with on it.

    Args:
        name: What the tables call it.
        image: ``(3, H, W)``, uint8.
        networks: Of LPIPS and DISTS.
    """

    def __init__(self, name: str, image: Tensor, networks: Networks = NO_NETWORKS) -> None:
        self.name, self.image, self.networks = name, image, networks
        self._lossy: dict[str, LossyImage] = {}

    @property
    def size(self) -> tuple[int, int]:
        """``(H, W)``."""
        return self.image.shape[-2], self.image.shape[-1]

    @property
    def pixels(self) -> int:
        """Height by width."""
        return self.size[0] * self.size[1]

    def lossy(self, name: str) -> LossyImage:
        """Return the image in one of ``FORMATS``."""
        if name not in self._lossy:
            self._lossy[name] = LossyImage(self.image, FORMATS[name])
        return self._lossy[name]

    def quality(self, decoded: Tensor) -> Record:
        """Measure a decoded image, uint8, by everything there is."""
        return measure_quality(self.image, decoded, self.networks)

    def rate(self, length: int) -> Record:
        """Rate of a file of ``length`` bytes."""
        return {"bytes": length, "bpp": 8 * length / self.pixels}

    def speed(self, seconds: float) -> float:
        """Megapixels per second."""
        return self.pixels / 1e6 / seconds


def write_file(file: Path, latents: Tensor, codec: wt.Codec, size: Sequence[int], coder: str) -> int:
    """Write rounded latents ``(D, h, w)`` of an image of ``size`` ``(H, W)``; returns the bytes of the file."""
    if coder != MOSAIC:
        return save_latents(file, latents, codec, size=size, coder=coder)
    wt.functional.latents_to_pil(latents, bits=codec.config.latent_bits)[0].save(file, "WEBP", lossless=True)
    return file.stat().st_size


def read_file(file: Path, codec: wt.Codec, coder: str) -> Tensor:
    """Read what :func:`write_file` wrote."""
    if coder != MOSAIC:
        return load_latents(file).latents
    with Image.open(file) as mosaic:
        return wt.functional.pil_to_latents([mosaic], codec.config.channels, bits=codec.config.latent_bits)[0]


def measure(photo: Photo, codec: wt.Codec, coder: str) -> tuple[list[tuple[str, Record, Tensor]], Tensor]:
    """Encode an image to a file and decode it from there, by each of the codec's decoders.

    Args:
        photo: The image.
        codec: For RGB images.
        coder: One of ``IMAGE_CODERS``.

    Returns:
        Of each decoder, the codec's own first, its name, the figures and the decoded image ``(3, H, W)``, uint8; the
        rounded latents ``(D, h, w)``.

    Raises:
        ValueError: The coder cannot hold the latents.
        RuntimeError: The file did not give the latents back.
    """
    image, c, decoders = photo.image, codec.config, decoders_of(codec)
    # One pass that is not timed: the first one at a size sets up kernels, and a refiner is read from its file.
    latents = wt.functional.encode_image(image, codec)
    for decoder in decoders:
        wt.functional.decode_image(latents, codec, size=photo.size, decoder=decoder)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "image"
        start = time.perf_counter()
        latents = wt.functional.encode_image(image, codec, quantize=True, dtype=stored_dtype(codec))
        length = write_file(file, latents, codec, photo.size, coder)
        encoding = time.perf_counter() - start
        passes = [_decode_file(file, photo, codec, coder, decoder) for decoder in decoders]
    measured: list[tuple[str, Record, Tensor]] = []
    for decoder, (read, decoded, seconds) in zip(decoders, passes, strict=True):
        if not torch.equal(read, latents):
            raise RuntimeError(f"the file of {photo.name} did not give the latents back")
        record = {
            "reduction": c.dimensionality_reduction,
            **photo.rate(length),
            **photo.quality(decoded),
            "encode_mps": photo.speed(encoding),
            "decode_mps": photo.speed(seconds),
        }
        measured.append((decoder, record, decoded))
    return measured, latents


def _decode_file(file: Path, photo: Photo, codec: wt.Codec, coder: str, decoder: str) -> tuple[Tensor, Tensor, float]:
    """Return the latents of a file, the image decoded from them, uint8, and the seconds that both took."""
    start = time.perf_counter()
    latents = read_file(file, codec, coder)
    decoded = to_8_bits(wt.functional.decode_image(latents, codec, size=photo.size, decoder=decoder))
    return latents, decoded, time.perf_counter() - start


def measure_resizing(photo: Photo, reduction: float) -> tuple[Record, Tensor]:
    """Divide the number of pixels by ``reduction`` (timed as encoding) and enlarge again (timed as decoding)."""
    decoded, reducing, enlarging = resize(photo.image, reduction)
    return {
        "reduction": reduction,
        **photo.quality(decoded),
        "encode_mps": photo.speed(reducing),
        "decode_mps": photo.speed(enlarging),
    }, decoded


def measure_format(photo: Photo, name: str, size: int) -> tuple[Record, Tensor | None]:
    """Encode an image in one of ``FORMATS`` to about ``size`` bytes, or say why that cannot be done."""
    note = FORMATS[name].missing()
    if note:
        return {"note": note}, None
    lossy = photo.lossy(name)
    try:
        coded = lossy.nearest(size)
    except (OSError, ValueError) as error:  # such as an image larger than the format allows
        return {"note": f"refused: {error}"}, None
    decoded, seconds = lossy.decode(coded)
    off = len(coded.content) / size - 1
    ends: dict[float, str] = {0: "lowest rate", HIGHEST: "highest rate"}
    note = ends.get(coded.setting, "") if abs(off) > 0.05 else ""
    return {
        "reduction": 1.0,
        **photo.rate(len(coded.content)),
        **photo.quality(decoded),
        "encode_mps": photo.speed(coded.seconds),
        "decode_mps": photo.speed(seconds),
        "quality": coded.setting,
        "note": note,
    }, decoded


def prefix_lengths(channels: int) -> list[int]:
    """List the prefixes on the curve: 3, 6, 12, 18, ..., and all channels."""
    return sorted({*(n for n in (3, *range(6, channels, 6)) if n < channels), channels})


def measure_prefixes(photo: Photo, codec: wt.Codec, latents: Tensor, coder: str) -> list[Record]:
    """Rate and quality of the first channels of rounded latents ``(D, h, w)``, beside resizing to as many values.

    Quality by a refiner, if there is one, is in figures of their own: ``refiner_psnr`` and so on.
    """
    bare = Photo(photo.name, photo.image)  # the networks would take minutes
    rows: list[Record] = []
    for n in prefix_lengths(codec.config.channels):
        prefix = codec.prefix(n)
        with TemporaryDirectory() as folder:
            length = write_file(Path(folder) / "image", latents[:n], prefix, photo.size, coder)
        quality: Record = {}
        for decoder in decoders_of(prefix):
            decoded = wt.functional.decode_image(latents[:n], prefix, size=photo.size, decoder=decoder)
            start = "refiner_" if decoder == "refiner" else ""
            quality |= {f"{start}{figure}": value for figure, value in bare.quality(to_8_bits(decoded)).items()}
        reduction = prefix.config.dimensionality_reduction
        rows.append(
            {
                "codec": codec.config.name,
                "channels": n,
                "reduction": reduction,
                **photo.rate(length),
                **quality,
                "resize_psnr": measure_resizing(bare, reduction)[0]["psnr"],
            }
        )
    return rows


def measure_rates(photo: Photo, name: str) -> list[Record]:
    """Rate and quality of an image in one of ``FORMATS`` at ``RATE_QUALITIES``; none if that cannot be done."""
    if FORMATS[name].missing():
        return []
    bare, lossy, rows = Photo(photo.name, photo.image), photo.lossy(name), []
    for quality in RATE_QUALITIES:
        try:
            coded = lossy.encode(quality)
        except (OSError, ValueError):
            return []  # measure_format says why
        rows.append(
            {
                "format": name,
                "quality": quality,
                **photo.rate(len(coded.content)),
                **bare.quality(lossy.decode(coded)[0]),
            }
        )
    return rows
