"""The codec: encoder, decoders, companding, how it is fitted, saved and streamed."""

from .codec import Codec
from .companding import Rounding, compand, expand, slope
from .config import CodecConfig, Network, check_sample_rate
from .derived import check_linear
from .fitting import fit_codec, fit_statistics
from .flipping import check_flips, flip
from .folder import CONFIG_FILE, WEIGHTS_FILE, TensorFile, read_codec, read_config
from .mixing import mean_signal, mix, packet_noise
from .networks import network_shapes, post_shapes
from .origin import as_plain, check_latents, statistics_fingerprint
from .ranges import check_values
from .refiner import Refiner
from .streaming import StreamDecoder, StreamEncoder

__all__ = [
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "Codec",
    "CodecConfig",
    "Network",
    "Refiner",
    "Rounding",
    "StreamDecoder",
    "StreamEncoder",
    "TensorFile",
    "as_plain",
    "check_flips",
    "check_latents",
    "check_linear",
    "check_sample_rate",
    "check_values",
    "compand",
    "expand",
    "fit_codec",
    "fit_statistics",
    "flip",
    "mean_signal",
    "mix",
    "network_shapes",
    "packet_noise",
    "post_shapes",
    "read_codec",
    "read_config",
    "slope",
    "statistics_fingerprint",
]
