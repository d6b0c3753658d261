"""One readable script per experiment: ``python -m recipes.NAME --help``."""

import os

# Threads that spin while they wait for each other starve when another process needs a core, as loader workers do: on
# two cores a training step then takes ten times as long. It must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
