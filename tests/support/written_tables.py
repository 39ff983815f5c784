"""Ways in which people and spreadsheets save the same table."""

from collections.abc import Callable

Change = Callable[[str], bytes]


def _as_excel_in_germany(text: str) -> str:
    """Semicolons, a mark, Windows line ends, and empty cells behind the last row."""
    return "\ufeff" + text.replace(",", ";").replace("\n", "\r\n") + ";;;\r\n;;;\r\n"


def _with_spaces(text: str) -> str:
    return text.replace(",", " , ").replace("\n", "  \n")


def _upper_case_header(text: str) -> str:
    header, line_end, rows = text.partition("\n")
    return header.upper() + line_end + rows


WAYS: dict[str, Change] = {
    "plain": lambda text: text.encode(),
    "mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "semicolons": lambda text: text.replace(",", ";").encode(),
    "tabs": lambda text: text.replace(",", "\t").encode(),
    "windows": lambda text: text.replace("\n", "\r\n").encode(),
    "old mac": lambda text: text.replace("\n", "\r").encode(),
    "empty rows": lambda text: ("\n" + text.replace("\n", "\n\n , , \n")).encode(),
    "spaces": lambda text: _with_spaces(text).encode(),
    "no-break spaces": lambda text: text.replace(",", "\u00a0,\u00a0").encode(),
    "excel": lambda text: _as_excel_in_germany(text).encode(),
    "separator named": lambda text: b"sep=;\r\n" + text.replace(",", ";").encode(),
    "unicode text": lambda text: text.replace(",", "\t").encode("utf-16"),
    "upper case": lambda text: _upper_case_header(text).encode(),
}
"""By name, how each of them writes a table that is given with commas."""
