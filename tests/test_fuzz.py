"""For any bytes of an image file, check, preprocess and predict return a result or a clear error.

There is no traceback, no endless loop and no excessive memory. HSTF_FUZZ=5000 runs more examples.
"""

import gzip
import math
import os
import resource
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.stages import check
from support.tiny_model import tiny_plan
from torch import Tensor, nn

from hstf.config.load import resolve_config
from hstf.config.preprocess import PreprocessConfig
from hstf.imaging.preparation import prepare_image
from hstf.imaging.volumes import read_image, read_label
from hstf.method.inference import Predictor
from hstf.method.sliding_window import SlidingWindow
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_csv

MAXIMUM_SECONDS = 20
MAXIMUM_MB = 800
"""Limits for one file. A grid of 2^24 voxels, the maximum for a small file, needs a third of it."""

FUZZ = settings(
    max_examples=int(os.environ.get("HSTF_FUZZ", "120")),
    derandomize="HSTF_FUZZ" not in os.environ,  # a long search finds others each time
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
PLAN = tiny_plan()


@contextmanager
def bounded(what: str) -> Iterator[None]:
    """Fail if the block exceeds the limits of memory and CPU time."""
    start = time.process_time()
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()
    assert peak < MAXIMUM_MB, f"{what}: {peak:.0f} MB"
    assert time.process_time() - start < MAXIMUM_SECONDS, what


class Same(nn.Module):
    """A network that needs no time."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([image, -image, 0 * image], dim=1)


PREDICTOR = Predictor(
    {"seed_0": Same()},
    PLAN,
    SlidingWindow((64, 64, 64), (1, 1, 1), 0.0, 8, False, torch.device("cpu")),
    (),
    PreprocessConfig(),
    {"image": "mr"},
)


def checked(path: Path) -> None:
    """Run ``hstf check`` on one case whose image and label are the file."""
    rows = [{"case_id": "a", "image": path.name, "label": path.name, "split": "labelled"}]
    write_csv(path.parent / "cases.csv", rows, list(rows[0]))
    config = resolve_config(
        {"cases": str(path.parent / "cases.csv"), "output": str(path.parent / "results")}
    )
    check(config)


def prepared(path: Path) -> None:
    prepare_image([read_image(path)], PLAN, PreprocessConfig(), {"image": "mr"})


def predicted(path: Path) -> None:
    PREDICTOR.predict([read_image(path)], members=False)


WAYS: dict[str, Callable[[Path], object]] = {
    "check": checked,
    "label": read_label,
    "preprocess": prepared,
    "predict": predicted,
}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read files in this process: other processes start slowly and are not measured."""
    monkeypatch.setattr(
        "hstf.stages.check.reading.map_processes",
        lambda function, items, workers: ((i, function(i)) for i in items),
    )


def assert_readable_or_refused(path: Path) -> None:
    """Assert that each reader of ``path`` returns or raises HstfError within the limits."""
    for name, read in WAYS.items():
        with bounded(f"{name} of {path.read_bytes()[:400].hex()}"):
            try:
                read(path)
            except HstfError as error:
                assert str(error)


# ---- headers


def header(**fields: object) -> bytes:
    """Return the header of a scan of 6 x 5 x 4 voxels (int16, 1.5 mm) with other ``fields``."""
    values = {
        "dim": (3, 6, 5, 4, 1, 1, 1, 1),
        "datatype": 4,
        "bitpix": 16,
        "pixdim": (1, 1.5, 1.5, 2, 0, 0, 0, 0),
        "vox_offset": 352.0,
        "scl_slope": 1.0,
        "scl_inter": 0.0,
        "qform_code": 1,
        "sform_code": 1,
        "quatern": (0.0, 0.0, 0.0),
        "qoffset": (0.0, 0.0, 0.0),
        "xyzt_units": 2,
        "magic": b"n+1\0",
        "extension": b"\0" * 4,
        "srow_x": (1.5, 0, 0, 0),
        "srow_y": (0, 1.5, 0, 0),
        "srow_z": (0, 0, 2, 0),
    } | fields
    content = bytearray(348)
    layout = {
        40: ("8h", "dim"),
        70: ("h", "datatype"),
        72: ("h", "bitpix"),
        76: ("8f", "pixdim"),
        108: ("f", "vox_offset"),
        112: ("f", "scl_slope"),
        116: ("f", "scl_inter"),
        123: ("B", "xyzt_units"),
        252: ("h", "qform_code"),
        254: ("h", "sform_code"),
        256: ("3f", "quatern"),
        268: ("3f", "qoffset"),
        280: ("4f", "srow_x"),
        296: ("4f", "srow_y"),
        312: ("4f", "srow_z"),
    }
    struct.pack_into("<i", content, 0, 348)
    for place, (kind, name) in layout.items():
        value = values[name]
        struct.pack_into(
            "<" + kind, content, place, *(value if isinstance(value, tuple) else (value,))
        )
    content[344:348] = values["magic"]
    return bytes(content) + values["extension"]  # type: ignore[operator]


VOXELS = np.random.default_rng(0).integers(0, 900, 120).astype("<i2").tobytes()

shorts = st.one_of(
    st.integers(-2, 40),
    st.sampled_from([-32768, 255, 256, 1000, 32767]),
    st.integers(-32768, 32767),
)
floats = st.one_of(
    st.sampled_from(
        [
            0.0,
            -0.0,
            1.0,
            -1.0,
            1e-30,
            1e-6,
            100.0,
            1e4,
            1e10,
            3e38,
            -3e38,
            math.nan,
            math.inf,
            -math.inf,
        ]
    ),
    st.floats(width=32),
)


def tuples(values: st.SearchStrategy, count: int) -> st.SearchStrategy[tuple]:
    return st.tuples(*[values] * count)


FIELDS: dict[str, st.SearchStrategy] = {
    "dim": st.one_of(
        tuples(shorts, 8),
        st.tuples(st.just(3), shorts, shorts, shorts, *[st.integers(0, 2)] * 4),
        st.just((3, 32767, 32767, 32767, 1, 1, 1, 1)),
    ),
    "datatype": st.sampled_from(
        [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2304, -1, 77]
    ),
    "bitpix": st.sampled_from([0, 1, 8, 16, 32, 64, 128, -16]),
    "pixdim": tuples(floats, 8),
    "vox_offset": st.one_of(
        st.sampled_from([0.0, 348.0, 352.0, 353.5, 1e9, 3e9, -1.0, math.nan, math.inf]), floats
    ),
    "scl_slope": floats,
    "scl_inter": floats,
    "qform_code": shorts,
    "sform_code": shorts,
    "quatern": tuples(floats, 3),
    "qoffset": tuples(floats, 3),
    "srow_x": tuples(floats, 4),
    "srow_y": tuples(floats, 4),
    "srow_z": tuples(floats, 4),
    "xyzt_units": st.integers(0, 255),
    "magic": st.sampled_from([b"n+1\0", b"ni1\0", b"n+2\0", b"\0\0\0\0", b"zzzz"]),
    "extension": st.one_of(
        st.just(b"\0\0\0\0"),
        st.binary(min_size=4, max_size=40),
        st.integers(-(2**31), 2**31 - 1).map(
            lambda size: b"\1\0\0\0" + struct.pack("<ii", size, 4)
        ),
    ),
}

edits = st.sets(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=4).flatmap(
    lambda names: st.fixed_dictionaries({name: FIELDS[name] for name in names})
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@FUZZ
@given(fields=edits, tail=st.one_of(st.just(VOXELS), st.binary(max_size=300)))
def test_readers_survive_random_headers(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, fields: dict, tail: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / f"header{suffix}"
    content = header(**fields) + tail
    path.write_bytes(gzip.compress(content, 1) if suffix == ".nii.gz" else content)
    assert_readable_or_refused(path)


def test_header_without_changes_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "sound.nii"
    path.write_bytes(header() + VOXELS)
    image = nib.load(path)
    assert (image.shape, image.get_data_dtype()) == ((6, 5, 4), np.int16)
    np.testing.assert_array_equal(np.diag(image.affine), [1.5, 1.5, 2, 1])
    prepared(path)
    predicted(path)


# ---- gzip streams

bits = st.tuples(st.integers(0, 10_000), st.integers(0, 255))


@pytest.mark.filterwarnings("ignore")
@FUZZ
@given(
    level=st.integers(0, 9),
    damage=st.lists(bits, max_size=4),
    keep=st.floats(0, 1),
    members=st.integers(1, 3),
    tail=st.binary(max_size=30),
    flags=st.integers(0, 255),
    extra=st.binary(max_size=30),
)
def test_readers_survive_damaged_gzip_streams(
    tmp_path_factory: pytest.TempPathFactory,
    level: int,
    damage: list[tuple[int, int]],
    keep: float,
    members: int,
    tail: bytes,
    flags: int,
    extra: bytes,
) -> None:
    """Streams have several members, header fields, flipped bits, an early end or extra bytes."""
    content = header() + VOXELS
    size = math.ceil(len(content) / members)
    parts = [gzip.compress(content[at : at + size], level) for at in range(0, len(content), size)]
    if flags % 3 == 0:
        parts[0] = (
            parts[0][:3]
            + bytes([flags])
            + parts[0][4:10]
            + struct.pack("<H", len(extra))
            + extra
            + parts[0][10:]
        )
    packed = bytearray(b"".join(parts) + tail)
    for place, value in damage:
        packed[place % len(packed)] ^= value
    path = tmp_path_factory.getbasetemp() / "stream.nii.gz"
    path.write_bytes(packed[: max(2, math.ceil(keep * len(packed)))])
    assert_readable_or_refused(path)


# ---- bombs


def zeros(count: int) -> bytes:
    """Return a gzip member of ``count`` zero bytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = bytes(1 << 20)
    parts = [
        packer.compress(block[: min(len(block), count - at)]) for at in range(0, count, len(block))
    ]
    return b"".join([*parts, packer.flush()])


@pytest.mark.filterwarnings("ignore")
def test_readers_refuse_a_small_file_of_a_huge_shape(tmp_path: Path) -> None:
    huge = header(dim=(3, 32767, 32767, 32767, 1, 1, 1, 1)) + bytes(700)
    for name, content in (("a.nii", huge), ("b.nii.gz", gzip.compress(huge))):
        path = tmp_path / name
        path.write_bytes(content)
        with bounded(name), pytest.raises(HstfError, match="claims shape"):
            prepared(path)
        assert_readable_or_refused(path)


@pytest.mark.filterwarnings("ignore")
def test_readers_refuse_voxels_of_a_metre(tmp_path: Path) -> None:
    metre = {"pixdim": (1, 1e3, 1e3, 1e3, 0, 0, 0, 0)}
    rows = {"srow_x": (1e3, 0, 0, 0), "srow_y": (0, 1e3, 0, 0), "srow_z": (0, 0, 1e3, 0)}
    path = tmp_path / "metres.nii.gz"
    path.write_bytes(gzip.compress(header(**metre, **rows) + VOXELS))
    with (
        bounded("metres"),
        pytest.raises(HstfError, match=r"voxels of 1000 x 1000 x 1000 mm would become \d+ voxels"),
    ):
        prepared(path)
    assert_readable_or_refused(path)


@pytest.mark.parametrize("place", ["behind the voxels", "before the voxels", "in an extension"])
@pytest.mark.filterwarnings("ignore")
def test_readers_do_not_unpack_a_gzip_bomb(tmp_path: Path, place: str) -> None:
    """Two megabytes contain two gigabytes of zeros, which are not unpacked into memory."""
    path = tmp_path / "bomb.nii.gz"
    bomb = zeros(2 << 30)
    if place == "behind the voxels":
        path.write_bytes(gzip.compress(header() + VOXELS) + bomb)
    elif place == "before the voxels":
        path.write_bytes(gzip.compress(header(vox_offset=2.0e9)) + bomb)
    else:
        extension = b"\1\0\0\0" + struct.pack("<ii", 2_000_000_000 // 16 * 16, 4)
        path.write_bytes(gzip.compress(header(vox_offset=2.1e9, extension=extension)) + bomb)
    assert path.stat().st_size < 3e6
    assert_readable_or_refused(path)


@pytest.mark.filterwarnings("ignore")
def test_stages_refuse_a_constant_image_of_gigabytes(tmp_path: Path) -> None:
    """The file is valid and has only zeros. No stage unpacks it into memory."""
    path = tmp_path / "zeros.nii.gz"
    path.write_bytes(
        gzip.compress(header(dim=(3, 2000, 1000, 300, 1, 1, 1, 1), datatype=2, bitpix=8))
        + zeros(600_000_000)
    )
    for name in ("check", "preprocess", "predict"):
        with bounded(name), pytest.raises(HstfError, match="constant"):
            WAYS[name](path)


@pytest.mark.filterwarnings("ignore")
def test_read_label_refuses_a_header_of_a_giant_shape(tmp_path: Path) -> None:
    """The compression is possible, and the label is not larger than a few megabytes."""
    path = tmp_path / "label.nii.gz"
    path.write_bytes(
        gzip.compress(header(dim=(3, 2000, 1000, 1000, 1, 1, 1, 1), datatype=2, bitpix=8))
        + zeros(2_000_000_000)
    )
    assert path.stat().st_size < 3e6
    with bounded("label"), pytest.raises(HstfError, match="almost constant, no label"):
        read_label(path)


def test_main_reports_a_gzip_bomb_within_a_memory_limit(tmp_path: Path) -> None:
    """Run the command in a process that may use two gigabytes."""
    path = tmp_path / "bomb.nii.gz"
    extension = b"\1\0\0\0" + struct.pack("<ii", 2_000_000_000 // 16 * 16, 4)
    path.write_bytes(gzip.compress(header(vox_offset=2.1e9, extension=extension) + bytes(4000)))
    rows = [
        {"case_id": c, "image": path.name, "label": path.name, "split": "labelled"} for c in "ab"
    ]
    write_csv(tmp_path / "cases.csv", rows, list(rows[0]))
    (tmp_path / "config.yaml").write_text("cases: cases.csv\ncheck: {workers: 1}\n")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

    done = subprocess.run(
        [sys.executable, "-m", "hstf", "check", "--config", "config.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "bomb.nii.gz" in done.stderr
