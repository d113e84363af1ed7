"""Pastes all figures into one picture."""

from pathlib import Path

from PIL import Image

_SCALE, _COLUMNS, _GAP = 0.45, 2, 16


def contact_sheet(pictures: list[Path], path: Path) -> None:
    """Pastes `pictures`, all smaller by the same factor, into columns of about the same height."""
    columns: list[list[tuple[int, Image.Image]]] = [[] for _ in range(_COLUMNS)]
    heights = [0] * _COLUMNS
    for picture in pictures:
        with Image.open(picture) as opened:
            width, height = (round(_SCALE * side) for side in opened.size)
            image = opened.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        shortest = heights.index(min(heights))
        columns[shortest].append((heights[shortest], image))
        heights[shortest] += image.height + _GAP
    width = max(image.width for column in columns for _, image in column) + _GAP
    sheet = Image.new("RGB", (_COLUMNS * width - _GAP, max(heights) - _GAP), "white")
    for i, column in enumerate(columns):
        for top, image in column:
            sheet.paste(image, (i * width, top))
    # A palette keeps the few colours of the pictures and makes the file four times smaller.
    small = sheet.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
