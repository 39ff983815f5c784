"""Overlay pictures small enough to be carried by the page."""

import base64
import io
from pathlib import Path

JPEG_QUALITY = 82


def picture_address(path: Path, pixels: int) -> str | None:
    """The picture at ``path`` as a ``data:`` address, its longer side at most ``pixels``; None when it is unreadable."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    small.thumbnail((pixels, pixels))
    buffer = io.BytesIO()
    small.save(
        buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True
    )  # thin coloured outlines stay sharp
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
