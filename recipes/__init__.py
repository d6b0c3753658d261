"""One readable script per experiment: ``python -m recipes.NAME --help``."""

import os

# GNU OpenMP's threads spin while they wait for each other, which starves them when another process needs a core, as
# loader workers do: on two cores a training step then takes ten times as long and more. Spinning a little costs nothing
# and avoids that. It must be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
