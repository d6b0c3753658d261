"""Table, figure and sheet of recipes/video_classification.py."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from recipes.common.tables import Record, figure, group, markdown_table, mean_and_sd

_SHOWN = 5  # frames of a clip on the sheet


def by_class(runs: Sequence[Record], classes: Sequence[str]) -> str:
    """Write the accuracy of each arm on each class, in percent, as a Markdown table: means over seeds."""
    lines: list[list[str]] = []
    for (arm,), own in group(runs, ("arm",)).items():
        shares = [[run["by_class"][i] for run in own if run["by_class"][i] is not None] for i in range(len(classes))]
        lines.append([arm, *(figure(mean_and_sd(share)[0], 0) for share in shares)])
    return markdown_table(["accuracy on each class, %", *classes], lines)


def draw(runs: Sequence[Record], chance: float, title: str) -> Figure:
    """Draw the accuracy of each arm: its mean as a bar, its seeds as dots."""
    arms = group(runs, ("arm",))
    picture = Figure((7.0, 0.5 * len(arms) + 1.4), layout="constrained")
    axes = picture.subplots()
    for row, ((arm,), own) in enumerate(arms.items()):
        scores = [run["accuracy"] for run in own]
        axes.barh(row, mean_and_sd(scores)[0], color="C3" if arm.startswith("walloc") else "C0", alpha=0.5)
        axes.plot(scores, [row] * len(scores), "k.")
    axes.axvline(chance, color="0.35", ls="--", lw=1.2, label="chance")
    axes.set_yticks(range(len(arms)), [f"{arm}, {own[0]['values']:,} values" for (arm,), own in arms.items()])
    axes.invert_yaxis()
    axes.set(xlabel="validation accuracy (%)", title=title)
    axes.legend(loc="lower right")
    return picture


def draw_sheet(clips: Tensor, labels: Tensor, said: Mapping[str, Sequence[int]], classes: Sequence[str]) -> Figure:
    """Draw one clip of each class, frame by frame, and what the network of each arm said.

    Args:
        clips: ``(N, 3, T, H, W)``, uint8.
        labels: ``(N,)``, indices of the classes.
        said: The answers of each arm for all clips.
        classes: Their names; of more than eight, the first eight are drawn.
    """
    shown = [int((labels == index).nonzero()[0]) for index in range(min(8, len(classes))) if (labels == index).any()]
    picture = Figure((2.0 * _SHOWN + 3.0, 2.0 * len(shown)), layout="constrained")
    panels = picture.subplots(len(shown), _SHOWN + 1, squeeze=False)
    frames = clips.shape[2]
    for row, index in zip(panels, shown, strict=True):
        for place, axes in enumerate(row[:-1]):
            number = place * (frames - 1) // (_SHOWN - 1)
            axes.imshow(clips[index, :, number].permute(1, 2, 0).numpy())
            axes.set_title(f"frame {number}", fontsize=8)
        lines = [f"{arm}: {classes[answers[index]]}" for arm, answers in said.items()]
        row[-1].text(0, 0.5, "\n".join([f"true: {classes[int(labels[index])]}", *lines]), fontsize=8, va="center")
        for axes in row:
            axes.axis("off")
    return picture
