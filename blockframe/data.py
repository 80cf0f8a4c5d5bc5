"""Data that a problem is trained on: text, samples, and the files that hold them.

Everything is deterministic: the same name, seed and sizes give the same numbers.
"""

from __future__ import annotations

import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from blockframe.errors import InputError
from blockframe.naming import suggestion

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RANDOM = "random"
"""What ``--data`` calls data drawn under the seed, in the shape that the model needs."""

LONGEST_TEXT = 1 << 20
"""Bytes that are read of a text file."""


def _numbers(name: str, array: NDArray[Any]) -> NDArray[np.float64]:
    import numpy as np

    array = np.asarray(array)
    if array.dtype.kind not in "iuf":
        raise InputError(
            f"{name} has dtype {array.dtype}", "It must hold real numbers (floats or integers)."
        )
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds NaN or infinity", "Remove those rows, or fill them in.")
    return array


def _targets(y: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    y = np.atleast_1d(np.asarray(y))
    if y.dtype.kind not in "iu":
        y = _numbers("y", y)
        return y[:, None] if y.ndim == 1 else y
    if y.ndim != 1 or (y < 0).any():
        raise InputError(
            f"y holds integers of shape {y.shape}, from {y.min()} on",
            "Class numbers are 0, 1, 2, ..., one per row; make real targets floats.",
        )
    return y.astype(np.int64)


def _inputs(x: NDArray[Any]) -> NDArray[np.float64]:
    return _numbers("x", x)


@frozen(eq=False)
class Samples:
    """Inputs and what belongs to them.

    Attributes:
        x: floats of shape (N, ...), one sample per row.
        y: class numbers of shape (N,) and dtype int64, or real targets of shape (N, c), float64.

    Raises:
        InputError: not numbers, not finite, no rows, or not as many targets as inputs.
    """

    x: NDArray[np.float64] = field(converter=_inputs)
    y: NDArray[Any] = field(converter=_targets)

    def __attrs_post_init__(self) -> None:
        if self.x.ndim < 2 or not self.x.size:
            raise InputError(
                f"x has shape {self.x.shape}", "It needs one row per sample: (N, features) or more."
            )
        if len(self.x) != len(self.y):
            raise InputError(
                f"x has {len(self.x)} rows and y has {len(self.y)}", "Give one target per row of x."
            )

    @property
    def classes(self) -> int | None:
        """How many classes ``y`` numbers, or None if its values are real."""
        return int(self.y.max()) + 1 if self.y.dtype.kind == "i" else None

    def first(self, count: int) -> Samples:
        """The first ``count`` samples.

        Raises:
            InputError: there are not as many.
        """
        if not 1 <= count <= len(self.x):
            raise InputError(
                f"{count} samples asked for, and there are {len(self.x)}",
                f"Give --samples a number from 1 to {len(self.x)}.",
            )
        return Samples(self.x[:count], self.y[:count])


@frozen(eq=False)
class Dataset:
    """Data that ``--data NAME`` can name.

    Attributes:
        name: what the user writes.
        words: what it is and where it comes from, in one line; a certificate quotes it.
        load: returns text as `bytes`, or `Samples`; called when the data is wanted.
    """

    name: str
    words: str
    load: Callable[[], bytes | Samples]

    def text(self) -> bytes:
        """The text, not empty.

        Raises:
            InputError: this is no text, or it is empty.
        """
        text = self.load()
        if not isinstance(text, bytes):
            raise InputError(
                f"'{self.name}' holds arrays, and a language model reads text",
                "Give --data text, random, or a text file.",
            )
        if not text:
            raise InputError(f"'{self.name}' is empty", "Give a file with text in it.")
        return text

    def samples(self) -> Samples:
        """The samples.

        Raises:
            InputError: this is text.
        """
        samples = self.load()
        if isinstance(samples, bytes):
            raise InputError(
                f"'{self.name}' is text, and this model reads arrays",
                "Give --data random, a data set of arrays, or an .npz file with x and y.",
            )
        return samples


def manual() -> bytes:
    """The language reference that ships with Python as text, English prose about the language.

    Raises:
        InputError: this Python was built without it.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise InputError(
            "this Python was installed without pydoc_data.topics",
            "Give --data random, or a text file.",
        ) from error
    return "\n\n".join(topics.values()).encode()


TEXT = Dataset("text", "the manual of Python {}.{}, in English".format(*sys.version_info), manual)
"""The text that language models train on unless told otherwise."""


def find(name: str, known: Mapping[str, Dataset]) -> Dataset:
    """The data that ``--data name`` names: one of ``known``, an ``.npz`` file, or a text file.

    Raises:
        InputError: neither a known name nor a file.
    """
    if name in known:
        return known[name]
    path = Path(name)
    if not path.is_file():
        raise InputError(
            f"there is no data and no file called '{name}'", suggestion(name, [*known, RANDOM])
        )
    if path.suffix == ".npz":
        return Dataset(name, f"arrays of {path.name}", lambda: read_arrays(path))
    return Dataset(name, f"text of {path.name}", lambda: read_text(path))


def read_text(path: Path) -> bytes:
    """The first `LONGEST_TEXT` bytes of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(LONGEST_TEXT)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror})", "Check its name and rights."
        ) from error


def read_arrays(path: Path) -> Samples:
    """The arrays ``x`` and ``y`` of an ``.npz`` file; nothing is unpickled.

    Raises:
        InputError: it cannot be read, has no such arrays, or they are no `Samples`.
    """
    import numpy as np

    remedy = "Save it with numpy.savez(path, x=..., y=...)."
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not an .npz file", remedy)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = " and no ".join(sorted({"x", "y"} - set(arrays)))
            if missing:
                found = ", ".join(arrays) or "none"
                raise InputError(f"{path} has no array {missing}", f"{remedy} It has: {found}.")
            return Samples(arrays["x"], arrays["y"])
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} holds no plain arrays ({error})", remedy) from error


def sequences(text: bytes, vocabulary: int, count: int, length: int) -> NDArray[np.int64]:
    """``count`` pieces of the text, each ``length`` tokens, spread evenly over it.

    A token is a byte; with fewer than 256 tokens in the vocabulary it is the byte modulo their
    number. Where the text allows, no two pieces begin with the same token: what a causal model
    says about equal beginnings is the same, whatever its weights (docs/theory section 3).

    Returns:
        Integers in [0, vocabulary), of shape (count, length).

    Raises:
        InputError: the text is too short, or a number is not positive.
    """
    import numpy as np

    _check_sizes(vocabulary, count, length)
    tokens = np.frombuffer(text, dtype=np.uint8).astype(np.int64) % vocabulary
    stride = (len(tokens) - length) // count
    if stride < 1:
        raise InputError(
            f"the text has {len(tokens)} bytes, too few for {count} sequences of {length}",
            f"Give at least {count + length} bytes, or fewer --samples.",
        )
    starts: list[int] = []
    for part in range(count):
        room = np.arange(part * stride, (part + 1) * stride)
        fresh = room[~np.isin(tokens[room], tokens[starts])]
        starts.append(int(fresh[0] if len(fresh) else room[0]))
    return np.stack([tokens[s : s + length] for s in starts])


def random_sequences(vocabulary: int, count: int, length: int, seed: int) -> NDArray[np.int64]:
    """Tokens drawn uniformly from [0, vocabulary), of shape (count, length).

    Raises:
        InputError: a number is not positive.
    """
    import numpy as np

    _check_sizes(vocabulary, count, length)
    return np.random.default_rng(seed).integers(0, vocabulary, (count, length))


def random_samples(shape: tuple[int, ...], count: int, classes: int, seed: int) -> Samples:
    """Standard normal inputs of shape (count, *shape), each with a class drawn uniformly."""
    import numpy as np

    generator = np.random.default_rng(seed)
    x = generator.standard_normal((count, *shape))
    return Samples(x, generator.integers(0, classes, count))


def standardised(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every column with mean 0 and variance 1; a constant column with 0."""
    import numpy as np

    deviation = x.std(axis=0)
    return np.asarray((x - x.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0))


def _check_sizes(vocabulary: int, count: int, length: int) -> None:
    if min(vocabulary, count, length) < 1:
        raise InputError(
            f"{count} sequences of {length} tokens out of {vocabulary} cannot be had",
            "All three numbers must be positive.",
        )
