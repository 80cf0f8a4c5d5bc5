"""Real data sets, small enough to ship with scikit-learn."""

from __future__ import annotations

from blockframe.data import Dataset, Samples, standardised


def digits() -> Samples:
    """1797 handwritten digits: x of shape (1797, 8, 8) in [0, 1], ten classes."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Samples(bunch.images / 16.0, bunch.target)


def diabetes() -> Samples:
    """442 patients: ten features and the progression after a year, all standardised."""
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    return Samples(standardised(bunch.data), standardised(bunch.target))


DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset("digits", "handwritten digits of scikit-learn, 8 × 8 pixels", digits),
        Dataset("diabetes", "diabetes progression of scikit-learn, standardised", diabetes),
    )
}
