"""The demo task: read a small digit printed on a photograph.

It asks for the detail that resizing destroys. Crops are 128x128 pixels of the photographs that scikit-image and
scikit-learn install; training crops come from the left 70 % of every photograph, validation crops from the rest. One
digit 14 to 22 px high, in Pillow's own font and a contrasting color, stands near the center; the class is the digit.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch.utils.data import Dataset

from recipes.common.photographs import demo_photographs

SIDE = 128
TRAINING_PART = 0.7
DIGIT_HEIGHT = 0.73  # of a digit of Pillow's font, in units of the font size


class DigitsOnPhotographs(Dataset[tuple[Image.Image, int]]):
    """Crops with a digit, made when they are asked for; the same index gives the same crop.

    Args:
        length: Number of crops.
        training: Training or validation part of the photographs.
        seed: Another seed, other crops.
    """

    def __init__(self, length: int, *, training: bool, seed: int = 0) -> None:
        self.length, self.training, self.seed = length, training, seed
        self.photographs = []
        for photograph in demo_photographs():
            border = round(photograph.width * TRAINING_PART)
            left, right = (0, border) if training else (border, photograph.width)
            self.photographs.append(photograph.crop((left, 0, right, photograph.height)))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        random = np.random.default_rng((self.seed, int(self.training), index))
        photograph = self.photographs[random.integers(len(self.photographs))]
        x, y = (int(random.integers(n - SIDE + 1)) for n in photograph.size)
        crop = photograph.crop((x, y, x + SIDE, y + SIDE))
        digit = int(random.integers(10))
        center = SIDE / 2 + random.uniform(-8, 8, 2)
        under = crop.crop((*(int(c) - 11 for c in center), *(int(c) + 11 for c in center))).convert("L")
        dark = np.asarray(under).mean() > 127
        color = tuple(int(v) for v in (random.integers(0, 60, 3) if dark else random.integers(195, 256, 3)))
        font = ImageFont.load_default(float(random.uniform(14, 22)) / DIGIT_HEIGHT)
        ImageDraw.Draw(crop).text(tuple(center), str(digit), fill=color, font=font, anchor="mm")
        return crop, digit
