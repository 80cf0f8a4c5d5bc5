"""Local directories: their configuration, and with --full their weights."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from blockframe.errors import InputError, SpecError
from blockframe.problem import Request
from blockframe_transformers import blockframe_resolve


@pytest.fixture
def directory(tmp_path):
    """A GPT-2 with weights, small enough to be built and large enough to have a proxy."""
    config = GPT2Config(
        n_layer=3, n_embd=128, n_head=4, vocab_size=6000, n_positions=32, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config)
    config.save_pretrained(tmp_path)
    weights = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


def resolve(directory, **request):
    return blockframe_resolve(str(directory), Request(**request))


def rewrite(directory, **entries):
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def test_a_configuration_makes_a_model_on_meta_and_a_proxy(directory):
    problem = resolve(directory)
    assert not problem.has_weights
    assert problem.note == ("2 of 3 layers, width 64 of 128, vocabulary 256 of 6,000")
    assert problem.spec == str(directory)


def test_settings_come_on_top(directory):
    assert len(resolve(directory, settings={"n_layer": 5}).module.transformer.h) == 5


def test_full_reads_the_weights(directory):
    problem = resolve(directory, full=True)
    stored = load_file(directory / "model.safetensors")
    assert problem.proxy is None
    assert torch.equal(problem.module.transformer.wte.weight, stored["transformer.wte.weight"])
    assert problem.targets.shape == (8, 16)


def test_full_without_a_directory_draws_weights():
    problem = blockframe_resolve("bloom", Request(full=True))
    assert problem.has_weights
    assert problem.parameters == 16_156_544


def test_full_size_beyond_the_memory_is_refused():
    with pytest.raises(InputError, match=r"weights of 2684 GB.*Leave out --full"):
        blockframe_resolve("deepseek_v3", Request(full=True))


def test_only_safetensors_are_read(directory):
    torch.save({}, directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights in safetensors"):
        resolve(directory, full=True)


def test_damaged_weights(directory):
    (directory / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(InputError, match="cannot be loaded"):
        resolve(directory, full=True)


def test_incomplete_weights(directory):
    weights = load_file(directory / "model.safetensors")
    del weights["transformer.h.0.ln_1.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lack transformer\.h\.0\.ln_1\.weight\. They must"):
        resolve(directory, full=True)


def test_code_in_a_directory_is_not_run(directory):
    marker = directory / "ran"
    (directory / "modeling.py").write_text(f"open({str(marker)!r}, 'w')")
    rewrite(directory, auto_map={"AutoConfig": "modeling.C", "AutoModelForCausalLM": "modeling.M"})
    assert resolve(directory).module.config.model_type == "gpt2"
    resolve(directory, full=True)
    rewrite(directory, model_type="of_its_own")
    with pytest.raises(SpecError, match=r"'of_its_own', which transformers .* does not know"):
        resolve(directory)
    assert not marker.exists()


def test_the_class_that_a_configuration_names_is_taken(directory):
    rewrite(directory, model_type="bert", architectures=["BertLMHeadModel"], is_decoder=True)
    assert type(resolve(directory).module).__name__ == "BertLMHeadModel"


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "cannot be read"), ("[]", "no JSON object"), ("{}", "model type 'None'")],
)
def test_a_damaged_configuration(directory, text, message):
    (directory / "config.json").write_text(text)
    with pytest.raises(SpecError, match=message):
        resolve(directory)


def test_nothing_is_downloaded():
    with pytest.raises(SpecError, match="would have to be downloaded"):
        blockframe_resolve("openai-community/gpt2", Request())


def test_a_directory_without_a_configuration_is_left_to_others(tmp_path):
    assert resolve(tmp_path) is None
