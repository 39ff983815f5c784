"""Which scans and slices are most worth a person's time.

The strategy follows ClaSP PE (Lüth et al., arXiv:2601.13677):

- *class-stratified*: the classes take turns, the rarest first. Each asks for the candidate in which
  the ensemble is most doubtful about it, so that a large organ does not take all turns;
- *noise that decays*: the logarithm of the doubt gets Gumbel noise, which makes early choices more
  diverse (stochastic batches, Kirsch et al., Transactions on Machine Learning Research 2023). Its
  scale here is 1, 1/10 and 1/100 from the first to the third time of asking.

Both were made for patches of one size. Whole scans differ in two ways. Their doubt is compared
relative to the predicted volume: in ml it is large in large organs, whose segmentation is often
good. And their doubt differs little (on ACDC, its logarithm has a standard deviation of 0.2 to
0.5), so that noise of scale 1 leaves a random choice: the scale is multiplied by this standard
deviation if it is below 1.

In addition, a *diversity* term multiplies the doubt by the distance to the nearest candidate that
is chosen or labelled, measured in deep features, so that two alike are not both asked. A part is
drawn *at random over foreground*: a class is drawn, then a candidate with a probability in
proportion to the volume of the class. This baseline is hard to beat.

No label of a candidate is read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

RANDOM = "random"
DOUBT = "doubt"
STEEPNESS = (1.0, 10.0, 100.0)
"""Inverse scale of the noise at the first, second and any later time of asking."""
TINY = 1e-9
BLOCK_ROWS = 4096
"""Candidates whose distances are computed at a time."""


@dataclass(frozen=True)
class Candidate:
    """A scan or a slice of it."""

    case_id: str
    doubt: Mapping[str, float]
    """Doubt about each structure (ml): the sum over the voxels of uncertainty times probability."""
    volume: Mapping[str, float]
    """Predicted volume of each structure (ml)."""
    features: np.ndarray
    """Deep features ``(F,)``; ``(0,)`` without features."""
    position: int | None = None
    """Slice on the planned grid; None for a whole scan."""

    def urgency(self, structure: str) -> float:
        """Return the doubt about a structure as candidates are compared by it.

        Returns:
            In a slice, the doubt (ml). In a whole scan, its fraction of the predicted volume, at
            most 1.

        Example:
            >>> scan = Candidate("scan", {"liver": 2.0}, {"liver": 8.0}, features=np.zeros(0))
            >>> scan.urgency("liver")
            0.25
        """
        doubt = self.doubt.get(structure, 0.0)
        if self.position is not None or doubt == 0:
            return doubt
        return doubt / max(doubt, self.volume.get(structure, 0.0))


@dataclass(frozen=True)
class Choice:
    """A candidate that is chosen, and why."""

    candidate: Candidate
    how: str
    """:data:`DOUBT` or :data:`RANDOM`."""
    structure: str
    """The class or region that asked for it, or from which it was drawn."""
    nearest: str
    """The chosen or labelled case with the most similar features; empty without features."""
    distance: float | None
    """Distance to it, relative to the median distance of two candidates."""


@dataclass(frozen=True)
class Strategy:
    """How candidates are chosen."""

    count: int
    time: int = 1
    """How often was asked before, plus 1: the noise decays."""
    random_fraction: float = 1 / 3
    per_case: int = 3
    """Maximum number of slices of a scan."""
    gap: int = 2
    """Minimum difference between the positions of two slices of a scan."""

    @property
    def steepness(self) -> float:
        """Inverse scale of the noise."""
        return STEEPNESS[min(self.time, len(STEEPNESS)) - 1]


def choose(
    candidates: Sequence[Candidate],
    known: Mapping[str, np.ndarray],
    strategy: Strategy,
    seed: int,
) -> list[Choice]:
    """Choose candidates, the most useful first.

    Args:
        candidates: scans, or slices of scans.
        known: deep features ``(N, F)`` of each labelled case.
        strategy: how many and how.
        seed: of the noise and of the random part.

    Example:
        >>> none = np.zeros(0)
        >>> sure = Candidate("sure", doubt={"liver": 0.1}, volume={"liver": 9.0}, features=none)
        >>> unsure = Candidate("unsure", doubt={"liver": 5.0}, volume={"liver": 9.0}, features=none)
        >>> strategy = Strategy(count=1, time=3, random_fraction=0.0)
        >>> [choice.candidate.case_id for choice in choose([sure, unsure], {}, strategy, seed=0)]
        ['unsure']
    """
    generator = np.random.default_rng([seed, strategy.time])
    pool = _Pool(list(candidates), known, strategy)
    structures = _rarest_first(candidates)
    count = min(strategy.count, len(candidates))
    random_count = round(count * strategy.random_fraction) if structures else 0
    noise = generator.gumbel(size=(len(structures), len(candidates)))
    doubt = [
        _noisy_doubt(candidates, name, row / strategy.steepness)
        for name, row in zip(structures, noise, strict=True)
    ]
    turn = 0
    while structures and len(pool.choices) < count - random_count and pool.left:
        index = turn % len(structures)
        pool.take_doubtful(structures[index], doubt[index])
        turn += 1
    while structures and len(pool.choices) < count and pool.left:
        pool.take_random(structures, generator)
    return pool.choices


def _rarest_first(candidates: Sequence[Candidate]) -> list[str]:
    """Return the structures that are doubtful or predicted somewhere, least volume first."""
    totals: dict[str, float] = {}
    for candidate in candidates:
        for name, volume in candidate.volume.items():
            totals[name] = totals.get(name, 0.0) + volume
    doubtful = {name for candidate in candidates for name, ml in candidate.doubt.items() if ml > 0}
    names = [name for name in totals if totals[name] > 0 or name in doubtful]
    return sorted(names, key=lambda name: (totals[name], name))


@dataclass
class _Pool:
    """The candidates that are left, and what was chosen."""

    candidates: list[Candidate]
    known: Mapping[str, np.ndarray]
    strategy: Strategy
    choices: list[Choice] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left = list(range(len(self.candidates)))
        self._features = self._scaled()
        self._nearest = [""] * len(self.candidates)
        self._distance = np.full(len(self.candidates), np.inf)
        self._unit = _median_distance(self._features)
        for case_id, features in self.known.items():
            if self._has_features:
                self._come_near(case_id, (features - self._mean) / self._sd)

    def _scaled(self) -> np.ndarray:
        """Return the features ``(N, F)`` with mean 0 and standard deviation 1."""
        table = np.array([candidate.features for candidate in self.candidates], dtype=float)
        self._has_features = table.ndim == 2 and table.shape[1] > 0 and len(table) > 1
        if not self._has_features:
            return np.zeros((len(self.candidates), 0))
        self._mean = table.mean(axis=0)
        self._sd = np.maximum(table.std(axis=0), TINY)
        return (table - self._mean) / self._sd

    def _come_near(self, case_id: str, rows: np.ndarray) -> None:
        """Note the distances of all candidates to ``rows`` ``(M, F)``: chosen or labelled."""
        distances = distances_to_nearest(self._features, rows) / self._unit
        for index in np.flatnonzero(distances < self._distance).tolist():
            self._distance[index] = distances[index]
            self._nearest[index] = case_id

    def take_doubtful(self, structure: str, doubt: np.ndarray) -> None:
        """Choose the candidate of most doubt about a structure, with diversity.

        Args:
            structure: name of the structure.
            doubt: ``(N,)`` result of :func:`_noisy_doubt`.
        """
        values = doubt[self.left]
        if self._has_features:
            far = np.where(np.isfinite(self._distance), self._distance, 1.0)
            values = values + np.log(np.maximum(far[self.left], TINY))
        self._take(self.left[int(values.argmax())], DOUBT, structure)

    def take_random(self, structures: Sequence[str], generator: np.random.Generator) -> None:
        """Draw a structure, and then a candidate in proportion to its volume."""
        structure = structures[int(generator.integers(len(structures)))]
        volume = np.array([self.candidates[i].volume.get(structure, 0.0) for i in self.left])
        total = volume.sum()
        chances = volume / total if total > 0 else None
        self._take(int(generator.choice(self.left, p=chances)), RANDOM, structure)

    def _take(self, index: int, how: str, structure: str) -> None:
        candidate = self.candidates[index]
        distance = float(self._distance[index])
        known = distance if self._has_features and np.isfinite(distance) else None
        nearest = self._nearest[index] if known is not None else ""
        self.choices.append(Choice(candidate, how, structure, nearest, known))
        if self._has_features:
            self._come_near(candidate.case_id, self._features[index : index + 1])
        self.left = [other for other in self.left if not self._is_excluded(other, index)]

    def _is_excluded(self, index: int, chosen: int) -> bool:
        """Return whether a candidate is not left after another one was chosen."""
        candidate = self.candidates[index]
        new = self.candidates[chosen]
        if index == chosen:
            return True
        if candidate.case_id != new.case_id:
            return False
        if candidate.position is None or new.position is None:
            return True
        of_case = sum(c.candidate.case_id == new.case_id for c in self.choices)
        is_close = abs(candidate.position - new.position) < self.strategy.gap
        return is_close or of_case >= self.strategy.per_case


def _noisy_doubt(candidates: Sequence[Candidate], structure: str, noise: np.ndarray) -> np.ndarray:
    """Return the logarithm of the doubt of each candidate about a structure, with noise.

    The noise is multiplied by the standard deviation of the logarithms if that is below 1.

    Args:
        candidates: N scans or slices.
        structure: name of the structure.
        noise: ``(N,)``.
    """
    doubt = np.array([candidate.urgency(structure) for candidate in candidates])
    logarithms = np.log(doubt[doubt > 0])
    scale = min(1.0, float(logarithms.std())) if len(logarithms) > 1 else 1.0
    return np.log(np.maximum(doubt, TINY)) + scale * noise


def distances_to_nearest(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the distance of each row of ``features`` to the nearest one of ``rows``.

    Matrix products in blocks: there may be 100 000 candidates, and as many labelled slices.

    Args:
        features: ``(N, F)``.
        rows: ``(M, F)``, at least one.

    Returns:
        ``(N,)``.

    Example:
        >>> features = np.array([[0.0, 0.0], [3.0, 4.0]])
        >>> distances_to_nearest(features, np.array([[0.0, 1.0], [3.0, 4.0]])).tolist()
        [1.0, 0.0]
    """
    if len(rows) == 1:
        return np.asarray(np.linalg.norm(features - rows[0], axis=1))
    nearest = np.empty(len(features))
    squares = (rows**2).sum(axis=1)
    for start in range(0, len(features), BLOCK_ROWS):
        block = features[start : start + BLOCK_ROWS]
        between = (block**2).sum(axis=1)[:, None] + squares - 2 * block @ rows.T
        nearest[start : start + BLOCK_ROWS] = np.sqrt(np.maximum(between.min(axis=1), 0.0))
    return nearest


def _median_distance(features: np.ndarray) -> float:
    """Return the median distance of two rows, of at most 500 rows; 1 without any."""
    some = features[:: max(1, len(features) // 500)]
    if len(some) < 2 or some.shape[1] == 0:
        return 1.0
    products = some @ some.T
    squares = np.diag(products)
    between = squares[:, None] + squares[None] - 2 * products
    upper = between[np.triu_indices(len(some), 1)]
    return max(TINY, float(np.sqrt(np.median(np.maximum(upper, 0.0)))))


def doubt_by_slice(
    probabilities: np.ndarray,
    uncertainty: np.ndarray,
    structures: Mapping[str, Sequence[int]],
    axis: int,
    voxel_ml: float,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return doubt and predicted volume of each structure in each slice (ml).

    Args:
        probabilities: ``(K, X, Y, Z)`` uint8, 255 times the probability of each class.
        uncertainty: ``(X, Y, Z)`` uint8, 255 times the uncertainty.
        structures: class indices of each structure.
        axis: the axis across the slices.
        voxel_ml: volume of a voxel.
    """
    planes = tuple(other for other in range(3) if other != axis)
    label = probabilities.argmax(axis=0)
    doubt = {}
    volume = {}
    for name, classes in structures.items():
        probability = probabilities[list(classes)].sum(axis=0, dtype=np.float32)
        product = probability * uncertainty
        doubt[name] = product.sum(axis=planes, dtype=np.float64) / 255**2 * voxel_ml
        volume[name] = np.isin(label, list(classes)).sum(axis=planes) * voxel_ml
    return doubt, volume
