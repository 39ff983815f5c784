"""What an external teacher has written is read as a label map."""

from pathlib import Path

from support.volume_files import write_large_mask

from hstf.stages.external.outputs import read_labels


def test_read_labels_accepts_an_organ_in_a_large_ct(tmp_path: Path) -> None:
    path = tmp_path / "organ.nii.gz"
    foreground = write_large_mask(path)
    labels = read_labels(path, path, tolerance_mm=0.01)
    assert labels.data.sum() == foreground
