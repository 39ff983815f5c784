"""Damage of files, as a failing disk causes it."""

from pathlib import Path


def flip_bit(path: Path, bit: int | None = None) -> None:
    """Flip one bit of a file; by default one in its middle."""
    content = bytearray(path.read_bytes())
    index = 4 * len(content) if bit is None else bit
    content[index // 8] ^= 1 << (index % 8)
    path.write_bytes(content)
