"""What ``plan.json`` holds."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_json, sha256_json

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Normalisation:
    """How the intensities of a channel become numbers around 0 with spread 1.

    ``zscore``: clip to the scan's own percentiles, subtract its mean, divide by its standard deviation.
    ``ct``: clip to ``lower``..``upper``, then the same for every scan: subtract ``mean``, divide by ``std``.
    ``fan``: as ``zscore``; what is empty beside the field of view of an ultrasound probe plays no part, black in it does.
    ``uptake``: compress the scan's heavy upper tail by arcsinh(value / median of the body), then subtract the body's mean
    and divide by its standard deviation; the hottest voxels are not clipped.
    """

    scheme: Literal["zscore", "ct", "fan", "uptake"]
    lower: float = 0.0
    upper: float = 0.0
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True)
class Plan:
    """The plan of an experiment. Axes are those of the reoriented (RAS) volume."""

    spacing: tuple[float, float, float]
    """Voxel size (mm) of the grid."""
    patch_size: Triple
    """Voxels that the network sees at once; a multiple of the total stride of each axis."""
    batch_size: int
    channels: tuple[int, ...]
    """Channels of each resolution level, finest first."""
    strides: tuple[Triple, ...]
    """Stride into each level; the first is (1, 1, 1)."""
    kernels: tuple[Triple, ...]
    """Convolution kernel of each level: 1 along an axis that is still much coarser than the others."""
    normalisation: tuple[Normalisation, ...]
    """One for each modality, in channel order."""
    median_shape: Triple
    """Median shape (voxels) of the scans on the grid."""
    reasons: dict[str, str]
    """Why each of these was chosen, a sentence each."""

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Read ``plan.json``.

        Raises:
            HstfError: the file is missing or is no plan.
        """
        content = read_json(path)
        try:
            return cls.from_json(content)
        except (KeyError, TypeError) as error:
            raise HstfError(
                f"{path}: is not a plan ({error}). Delete it and rerun the plan stage."
            ) from error

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Plan":
        """The inverse of :meth:`to_json`.

        Raises:
            KeyError, TypeError: keys are missing or unknown.
        """
        values = {name: _tuples(value) for name, value in content.items()}
        values["normalisation"] = tuple(Normalisation(**item) for item in content["normalisation"])
        return cls(**values)

    @property
    def grid_sha256(self) -> str:
        """Fingerprint of what preprocessed arrays depend on: a new patch size leaves them valid."""
        content = self.to_json()
        return sha256_json({name: content[name] for name in ("spacing", "normalisation")})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
