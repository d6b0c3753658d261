"""Tables of the benchmark's data part, from its records."""

from collections.abc import Sequence
from typing import Any

from recipes.bench.rivals import RIVALS
from recipes.common.tables import Record, figure, group, markdown_table, number


def data_report(results: dict[str, Any]) -> str:
    """Write what was measured as Markdown tables."""
    parts = [f"## Latent data sets\n\n{_caption(results['settings'])}"]
    parts += [_loading(own) for own in group(results["loading"], ("codec",)).values()]
    parts += [_reads(results["reads"]), _encoding(results["encoding"]), _sizes(results["sizes"])]
    parts += [_memory(results["memory"])] * bool(results["memory"])
    return "\n\n".join(parts)


def _caption(settings: dict[str, Any]) -> str:
    cells = settings["stored"] // 8
    return (
        f"JPEG files of 500x375 pixels. Stored are int8 latents of {settings['stored']}x{settings['stored']} pixels, "
        f"{cells}x{cells} cells, in stores of {settings['megabytes']:g} MB; their crops have 32x32 cells, the latents "
        f"of 256x256 pixels. Batches of {settings['batch']}, one thread per process. Loading is in samples per second "
        "of a `DataLoader`, `x` times the first line; `cold`: no file was in the system's cache."
    )


def _loading(records: Sequence[Record]) -> str:
    records = sorted(records, key=lambda r: (r["workers"], r["cache"] == "cold"))
    arms = list(dict.fromkeys(name for r in records for name in r["rates"]))
    resizing, rows = arms[0], []
    for arm in [*arms, *(name for name in RIVALS if name not in arms)]:
        cells = [arm]
        for rates in (r["rates"] for r in records):
            missing = ["-" if arm in arms else "not installed", ""]
            cells += [number(rates[arm]), figure(rates[arm] / rates[resizing], 1)] if arm in rates else missing
        rows.append(cells)
    heads = [f"`{records[0]['codec']}`"]
    for r in records:
        where = f"{r['workers']} worker{'s' * (r['workers'] > 1)}" if r["workers"] else "in process"
        heads += [where if r["cache"] == "warm" else f"{where}, cold", "x"]
    return markdown_table(heads, rows)


def _reads(records: Sequence[Record]) -> str:
    heads = ["random reads per second, in process", *(f"`{r['codec']}`" for r in records)]
    rows = [[name, *(number(r["rates"][name]) for r in records)] for name in records[0]["rates"]]
    return markdown_table(heads, rows)


def _encoding(records: Sequence[Record]) -> str:
    heads = [f"images per second, of {records[0]['images']} JPEG files", *(f"`{r['codec']}`" for r in records)]
    rows = [[name, *(number(r["rates"][name]) for r in records)] for name in records[0]["rates"]]
    said = "Encoding from files to shards, the start of the workers included, that of a Ray cluster not."
    return f"{said}\n\n{markdown_table(heads, rows)}"


def _sizes(records: Sequence[Record]) -> str:
    rows = []
    for r in records:
        jpeg, own = r["bytes"]["JPEG files"], r["bytes"]["latent data set"]
        rows.append(
            [f"`{r['codec']}`", f"{r['images']:,}", number(jpeg / 1e6), number(own / 1e6), figure(own / jpeg, 2)]
        )
    return markdown_table(["codec", "images", "JPEG files, MB", "latent data set, MB", "latents / JPEG"], rows)


def _memory(records: Sequence[Record]) -> str:
    rows = [
        [
            f"`{r['codec']}`",
            str(r["workers"]),
            f"{held['epoch']:,}",
            *(number(held[k] / 1e6) for k in ("anonymous", "files")),
        ]
        for r in records
        for held in r["after"]
    ]
    said = "Memory of all workers together, that of mapped files apart; a page that several share counts once."
    return f"{said}\n\n{markdown_table(['codec', 'workers', 'epochs', 'own, MB', 'files, MB'], rows)}"
