"""What the WaLLoC paper reports for the tasks of recipes/resolution_scaling.py: other people's figures, not ours.

The source is Table 3 of the WaLLoC paper (https://arxiv.org/abs/2412.09405), rounded; for runs that the table leaves
out and measures that it does not print, the notebooks of the authors' implementation. Data, networks, training and
scoring all differ from the recipes', and the rows of one task are not always comparable with each other: see
``DEFECTS``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

PAPER = "WaLLoC paper, Table 3"
NOTEBOOKS = "their notebooks, not in the paper"


@dataclass(frozen=True)
class Published:
    """One of their runs.

    Attributes:
        task: As ``--task`` of recipes/resolution_scaling.py calls it.
        family: ``pixels``, ``patch`` (all pixels, through larger patches) or ``latents``; for sound, ``waveform``.
        reads: What their network read, in words.
        values: Numbers read per sample: per image, or per window of 2^18 stereo samples.
        tokens: Of their network.
        paper: What Table 3 prints, by measure; empty where the run is not in it.
        notebooks: What only their notebooks hold.
    """

    task: str
    family: str
    reads: str
    values: int
    tokens: int
    paper: Mapping[str, float] = field(default_factory=dict)
    notebooks: Mapping[str, float] = field(default_factory=dict)


MEASURES = {
    "accuracy": ("accuracy", "%", 1),
    "lpips_db": ("LPIPS", "dB", 2),
    "psnr": ("PSNR", "dB", 1),
    "ms_ssim": ("MS-SSIM", "", 3),
    "ssdr": ("SSDR", "dB", 1),
    "srdr": ("SRDR", "dB", 1),
    "anls": ("ANLS", "%", 1),
}
"""Name, unit and digits; LPIPS is -10 log10, so that more is better."""

HEADLINE = {"classification": "accuracy", "colorization": "lpips_db", "separation": "psnr", "documents": "anls"}
"""The measure of Table 3."""

DATA = {
    "classification": "ImageNet-1k",
    "colorization": "ImageNet-1k, scored on LSDIR",
    "separation": "MUSDB18-HQ",
    "documents": "questions of DocVQA",
}

RESULTS: tuple[Published, ...] = (
    Published("classification", "pixels", "image resized to 64 px", 12288, 16, {"accuracy": 23.1}),
    Published("classification", "latents", "latents 16x of 256 px", 12288, 16, {"accuracy": 50.3}),
    Published("classification", "patch", "256 px, patches of 64", 196608, 16, {}, {"accuracy": 50.6}),
    Published("classification", "pixels", "image resized to 128 px", 49152, 64, {"accuracy": 55.8}),
    Published("classification", "latents", "latents 4x of 256 px", 49152, 64, {"accuracy": 64.3}),
    Published("classification", "patch", "256 px, patches of 32", 196608, 64, {}, {"accuracy": 64.1}),
    Published("classification", "pixels", "256 px", 196608, 256, {"accuracy": 71.1}),
    Published(
        "colorization",
        "pixels",
        "image resized to 128 px",
        49152,
        256,
        {"lpips_db": 1.76},
        {"psnr": 17.6553, "ms_ssim": 0.7133},
    ),
    Published(
        "colorization", "pixels", "256 px", 196608, 256, {"lpips_db": 2.33}, {"psnr": 18.3363, "ms_ssim": 0.8058}
    ),
    Published(
        "colorization",
        "latents",
        "latents 4x of 256 px",
        49152,
        256,
        {"lpips_db": 2.47},
        {"psnr": 18.3785, "ms_ssim": 0.8168},
    ),
    Published(
        "colorization",
        "latents",
        "latents 16x of 256 px",
        12288,
        256,
        {},
        {"lpips_db": 2.0205, "psnr": 17.9995, "ms_ssim": 0.7542},
    ),
    Published(
        "colorization", "pixels", "512 px", 786432, 256, {"lpips_db": 2.43}, {"psnr": 18.5048, "ms_ssim": 0.8259}
    ),
    Published(
        "colorization",
        "latents",
        "latents 4x of 512 px",
        196608,
        256,
        {},
        {"lpips_db": 2.4567, "psnr": 18.3988, "ms_ssim": 0.8275},
    ),
    Published(
        "colorization",
        "latents",
        "latents 16x of 512 px",
        49152,
        256,
        {"lpips_db": 2.83},
        {"psnr": 18.8515, "ms_ssim": 0.8438},
    ),
    Published(
        "separation",
        "waveform",
        "waveform at 44.1 kHz",
        524288,
        256,
        {"psnr": 31.8},
        {"psnr": 31.0949, "ssdr": 4.2244, "srdr": -1.5627},
    ),
    Published(
        "separation", "waveform", "waveform at 11 kHz", 131072, 256, {"psnr": 32.0}, {"ssdr": 7.2344, "srdr": 0.6237}
    ),
    Published(
        "separation",
        "latents",
        'latents "5x", of the waveform at 11 kHz',
        27648,
        256,
        {"psnr": 34.4},
        {"ssdr": 3.7553, "srdr": -15.8359},
    ),
    Published(
        "separation",
        "waveform",
        "waveform at 2.45 kHz",
        28672,
        256,
        {"psnr": 31.1},
        {"psnr": 31.5943, "ssdr": 5.4661, "srdr": -0.1821},
    ),
    Published("separation", "latents", "latents 20x", 27648, 256, {"psnr": 34.2}, {"ssdr": 4.2656, "srdr": -16.356}),
    Published("documents", "pixels", "page resized to 224 px", 150528, 256, {"anls": 43.7}),
    Published("documents", "pixels", "page of 224 px enlarged to 896", 150528, 4096, {}, {"anls": 39.419}),
    Published("documents", "latents", "latents 16x of 896 px, decoded", 150528, 4096, {"anls": 81.1}),
    Published("documents", "pixels", "page resized to 448 px", 602112, 1024, {"anls": 78.0}),
    Published("documents", "pixels", "page of 448 px enlarged to 896", 602112, 4096, {}, {"anls": 80.959}),
    Published("documents", "latents", "latents 4x of 896 px, decoded", 602112, 4096, {"anls": 84.2}),
    Published("documents", "pixels", "page resized to 896 px", 2408448, 4096, {"anls": 84.8}, {"anls": 84.131}),
)

DEFECTS = {
    "classification": (
        "The rows of 64 and 128 px were validated on a center crop of that many pixels from images of 288, about 5 % "
        "and 20 % of their area, after a training on images shrunk to that size; all others saw 256 of the 288. That "
        "crop is most of what latents gain there: with the same view and as many tokens, pixels through larger patches "
        "come within 0.35 points of latents.",
    ),
    "colorization": (
        "Only the better codec of each size is in the table. At 256 px the 16x codec is behind pixels in every "
        "measure.",
        "Pixels were trained for the error of pixels, latents for that of companded latents. Test images were squeezed "
        "to squares, and the result was stretched back.",
    ),
    "separation": (
        "The three waveform rows were scored on one segment, counted 235 times; the latent rows are means over 235 "
        "segments. On that one segment, a network on 108 latent channels without resampling has 31.7 dB, less than the "
        "waveform at 11 kHz.",
        "For 44.1 and 2.45 kHz the table's figures are not those of the notebooks, which stand beside them.",
        'Row "5x" was resampled 4:1 before encoding, and reads as few values as row 20x.',
        "The network of the latent rows can put out no more than 1 where latents reach 127, which probably drew it "
        "towards silence; PSNR rewards that, since voices are quiet, and it is the only measure in which latents lead.",
    ),
    "documents": (
        "Resized pages were read by three networks, tuned by others for 224, 448 and 896 px; their figures seem to be "
        "the published ones of those networks. Latents were decoded to 896 px and read by the third, which takes 4,096 "
        "tokens then as ever: latents save values, not compute. That one also "
        "read the pages that were enlarged again: those rows can be compared with latents.",
    ),
}
"""What is known to be wrong with the comparison, by task."""
