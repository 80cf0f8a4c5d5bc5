"""Names of model types, cheaply."""

import subprocess
import sys

from blockframe.problem import Request
from blockframe_transformers import blockframe_resolve, blockframe_specs, names


def test_they_are_those_of_transformers():
    from transformers.models.auto import modeling_auto

    for task, table in names.TABLES.items():
        theirs = getattr(modeling_auto, table)
        assert {t: c if isinstance(c, tuple) else (c,) for t, c in theirs.items()} == (
            names.classes()[task]
        )


def test_specs_are_listed_without_torch():
    code = (
        "import sys, blockframe_transformers as p;"
        "assert {'gpt2', 'bert', 't5', 'vit'} <= set(p.blockframe_specs());"
        "sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_model_type_with_several_tasks_has_one():
    tasks = names.model_types()
    assert (tasks["bart"], tasks["bert"], tasks["gpt2"]) == ("seq2seq", "masked", "causal")
    assert list(blockframe_specs()) == sorted(tasks)


def test_tables_that_are_no_literals_are_imported(monkeypatch):
    expected = names.classes()
    monkeypatch.setattr(names, "_read_literals", dict)
    names.classes.cache_clear()
    assert names.classes() == expected


def test_other_names_are_left_to_others():
    assert blockframe_resolve("mlp", Request()) is None
    assert blockframe_resolve("models/mine.py:make", Request()) is None
