"""All figures on one picture."""

from pathlib import Path

from PIL import Image

_SCALE, _COLUMNS, _GAP = 0.45, 2, 16


def contact_sheet(pictures: list[Path], path: Path) -> None:
    """Pastes `pictures`, all smaller by the same factor, into columns of about the same height."""
    columns = [[] for _ in range(_COLUMNS)]
    heights = [0] * _COLUMNS
    for picture in pictures:
        with Image.open(picture) as opened:
            size = tuple(round(_SCALE * side) for side in opened.size)
            image = opened.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        shortest = heights.index(min(heights))
        columns[shortest].append((heights[shortest], image))
        heights[shortest] += image.height + _GAP
    width = max(image.width for column in columns for _, image in column) + _GAP
    sheet = Image.new("RGB", (_COLUMNS * width - _GAP, max(heights) - _GAP), "white")
    for i, column in enumerate(columns):
        for top, image in column:
            sheet.paste(image, (i * width, top))
    # A palette that keeps the few colours of the pictures; a quarter of the size.
    small = sheet.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
