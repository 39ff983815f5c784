"""Which labels are sparse, and what they leave unknown."""

import numpy as np

from hstf.imaging.label_values import IGNORED
from hstf.imaging.sparse_labels import is_sparse, unknown_structures


def test_is_sparse_if_more_than_half_is_ignored() -> None:
    half = np.array([0, 1, IGNORED, IGNORED], np.uint8)
    more = np.array([IGNORED, 1, IGNORED, IGNORED], np.uint8)
    assert not is_sparse(half)
    assert is_sparse(more)


def test_unknown_structures_have_no_voxel_in_a_sparse_label() -> None:
    label = np.array([IGNORED, 1, IGNORED, IGNORED], np.uint8)
    unknown = unknown_structures(label, {"a": (1,), "b": (2,), "ab": (1, 2)})
    assert unknown.tolist() == [False, True, False]


def test_unknown_structures_is_false_for_a_dense_label() -> None:
    label = np.array([0, 1, IGNORED, IGNORED], np.uint8)
    assert not unknown_structures(label, {"a": (1,), "b": (2,)}).any()
