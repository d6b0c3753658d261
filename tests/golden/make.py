"""Make the golden arrays of the cases that the installed version of the reference has: ``python -m tests.golden.make``.

Version 1.2.1 makes the codecs, 0.3.7, 0.4.0 and 0.6.0 one ``Walloc`` each.
"""

import importlib
from importlib.metadata import version

from tests.reference import CASES, make_signal, make_state, run_reference, save_golden


def main() -> None:
    reference = importlib.import_module("walloc.walloc")
    for name, case in CASES.items():
        kind = getattr(reference, case.kind, None)
        if kind is None or (case.kind == "Walloc" and not name.endswith(version("walloc"))):
            continue
        model = kind(**case.arguments).eval()
        taps = {key: value for key, value in model.state_dict().items() if key.startswith(("wt.", "iwt."))}
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items() if key not in taps}
        model.load_state_dict({**make_state(shapes), **taps})
        arrays = run_reference(model, make_signal(1, case.arguments["channels"], *case.size), case.arguments["J"])
        save_golden(name, arrays, shapes)
        print(name, {key: (round(float(v.std()), 3), round(float(v.abs().max()), 3)) for key, v in arrays.items()})


if __name__ == "__main__":
    main()
