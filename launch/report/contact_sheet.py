"""All figures on one picture."""

from pathlib import Path

from PIL import Image

_WIDTH, _COLUMNS, _GAP = 900, 2, 16


def contact_sheet(pictures: list[Path], path: Path) -> None:
    """Pastes `pictures`, each as wide as the others, into columns of about the same height."""
    columns = [[] for _ in range(_COLUMNS)]
    heights = [0] * _COLUMNS
    for picture in pictures:
        with Image.open(picture) as opened:
            height = round(opened.height * _WIDTH / opened.width)
            image = opened.convert("RGB").resize((_WIDTH, height), Image.Resampling.LANCZOS)
        shortest = heights.index(min(heights))
        columns[shortest].append((heights[shortest], image))
        heights[shortest] += height + _GAP
    sheet = Image.new("RGB", (_COLUMNS * (_WIDTH + _GAP) - _GAP, max(heights) - _GAP), "white")
    for i, column in enumerate(columns):
        for top, image in column:
            sheet.paste(image, (i * (_WIDTH + _GAP), top))
    # Sixteen colours a figure or so: a palette is a quarter of the size.
    sheet.quantize(128).save(path, optimize=True)
