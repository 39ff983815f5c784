"""Lesions with a known match."""

from hstf.scoring.lesion_detection import Lesion


def lesion(volume: float, overlap: float, score: float | None) -> Lesion:
    """Return a counted lesion; it is matched if it has an overlap."""
    return Lesion(
        volume_mm3=volume,
        matched=overlap > 0,
        counted=True,
        overlap=overlap,
        score=score,
    )
