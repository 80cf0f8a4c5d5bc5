"""Every model type of transformers: which of them make a model, and which have a proxy.

``uncovered.txt`` lists those that do not, for one release; run this file to write it anew.
"""

import re
import warnings
from pathlib import Path

import pytest
import transformers

from blockframe.errors import SpecError
from blockframe.problem import Request
from blockframe_transformers import blockframe_resolve, blockframe_specs

LEDGER = Path(__file__).with_name("uncovered.txt")


def ledger() -> str:
    """One line for every type without a model or without a proxy, and why.

    Left out are those that need a package that is not installed.
    """
    lines = [f"transformers {transformers.__version__}"]
    for spec in blockframe_specs():
        try:
            problem = blockframe_resolve(spec, Request())
        except SpecError as error:
            if "ImportError" not in error.message:
                lines.append(f"{spec}: no model: {brief(error.message)}")
        else:
            if problem.runnable is None:
                lines.append(f"{spec}: {brief(problem.note)}")
    return "\n".join(lines) + "\n"


def brief(text: str) -> str:
    """``text`` with the kind of an error in the place of its message."""
    return re.sub(r"\((\w+): .*", r"(\1)", text)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # some types warn while they are imported or built
def test_types_without_a_model_or_a_proxy_are_known():
    committed = LEDGER.read_text(encoding="utf-8")
    release = committed.partition("\n")[0]
    if release != f"transformers {transformers.__version__}":
        pytest.skip(f"uncovered.txt is about {release}")
    assert ledger() == committed, f"If that is right: python {Path(__file__).name}"


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        LEDGER.write_text(ledger(), encoding="utf-8")
