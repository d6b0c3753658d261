"""One readable script per experiment: ``python -m recipes.NAME --help``."""

import importlib.util
import os

# GNU OpenMP's threads spin while they wait for each other, which starves them when another process needs a core, as
# loader workers do: on two cores a training step then takes ten times as long and more. Spinning a little costs nothing
# and avoids that. It must be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

_NEEDED = ("matplotlib", "pytorch_wavelets", "skimage", "sklearn", "soundfile", "torchaudio", "torchmetrics", "yaml")
_MISSING = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
if _MISSING:
    raise ImportError(f"recipes need {', '.join(_MISSING)}: pip install -e '.[recipes]'")
