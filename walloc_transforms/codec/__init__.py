"""The codec: encoder, decoders, companding, how it is fitted, saved and streamed."""

from .codec import CODEC_RANGE, Codec
from .companding import Quantize, compand, expand, slope
from .config import CodecConfig, Network, check_sample_rate
from .fitting import fit_codec, fit_statistics, to_codec_range
from .folder import CONFIG_FILE, WEIGHTS_FILE, TensorFile
from .refiner import Refiner
from .streaming import StreamDecoder, StreamEncoder

__all__ = [
    "CODEC_RANGE",
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "Codec",
    "CodecConfig",
    "Network",
    "Quantize",
    "Refiner",
    "StreamDecoder",
    "StreamEncoder",
    "TensorFile",
    "check_sample_rate",
    "compand",
    "expand",
    "fit_codec",
    "fit_statistics",
    "slope",
    "to_codec_range",
]
