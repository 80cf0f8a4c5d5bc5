"""Local directories: their configuration, and with --full their weights."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from blockframe.errors import InputError, SpecError
from blockframe.problem import Request
from blockframe_transformers import blockframe_resolve


def saved(path, **sizes):
    """A GPT-2 with weights, saved as transformers does."""
    config = GPT2Config(n_head=4, n_positions=32, bos_token_id=0, eos_token_id=0, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config)
    config.save_pretrained(path)
    weights = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.fixture
def directory(tmp_path):
    """Small enough to be built and large enough to have a proxy."""
    return saved(tmp_path, n_layer=3, n_embd=128, vocab_size=6000)


@pytest.fixture
def small(tmp_path):
    """Small enough to be run as it is."""
    return saved(tmp_path, n_layer=2, n_embd=16, vocab_size=300)


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
    assert problem.proxy.data.endswith("; weights drawn at random (default, seed 0)")


def test_settings_come_on_top(directory):
    assert len(resolve(directory, settings={"n_layer": 5}).module.transformer.h) == 5


def test_full_reads_the_weights(directory):
    problem = resolve(directory, full=True)
    stored = load_file(directory / "model.safetensors")
    assert problem.proxy is None
    assert torch.equal(problem.module.transformer.wte.weight, stored["transformer.wte.weight"])
    assert problem.targets.shape == (8, 16)
    assert problem.data.endswith(f"; weights of {directory}")


def test_a_small_model_is_run_with_the_weights_that_there_are(small):
    problem = resolve(small)
    stored = load_file(small / "model.safetensors")
    parameters = dict(problem.module.named_parameters())
    assert parameters.keys() == stored.keys()
    assert all(torch.equal(parameters[name], weight) for name, weight in stored.items())
    assert problem.data.endswith(f"; weights of {small}")


def test_a_small_model_without_safetensors_says_that_its_weights_are_random(small):
    torch.save({}, small / "pytorch_model.bin")
    (small / "model.safetensors").unlink()
    problem = resolve(small, seed=3, init="xavier")
    assert problem.has_weights
    assert problem.data.endswith("; weights drawn at random (xavier, seed 3)")


@pytest.mark.parametrize("full", [False, True])
def test_weights_that_are_stored_are_not_drawn_anew(small, full):
    with pytest.raises(SpecError, match=r"has weights of its own, and --init he .* Leave out"):
        resolve(small, init="he", full=full)


def test_settings_keep_the_weights_where_they_fit(small):
    problem = resolve(small, settings={"activation_function": "relu"})
    assert isinstance(problem.module.transformer.h[0].mlp.act, torch.nn.ReLU)
    stored = load_file(small / "model.safetensors")
    assert torch.equal(problem.module.transformer.wte.weight, stored["transformer.wte.weight"])


def test_settings_that_the_weights_do_not_fit(small):
    with pytest.raises(InputError, match=r"lack transformer\.h\.2.* config\.json and --set"):
        resolve(small, settings={"n_layer": 3})
    with pytest.raises(InputError, match=r"in .* has shape \(48,\) and not \(96,\)\. They must"):
        resolve(small, settings={"n_embd": 32})


def test_weights_that_have_no_place_are_told(small):
    problem = resolve(small, settings={"n_layer": 1})
    assert f"; weights of {small} without transformer.h.1.attn.c_attn.weight and " in problem.data


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
    with pytest.raises(InputError, match=r"no weights in safetensors, .*save_pretrained"):
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


def test_a_directory_without_a_configuration(tmp_path):
    with pytest.raises(SpecError, match=r"the directory .* has no config\.json\. Give one"):
        resolve(tmp_path)


@pytest.mark.parametrize("spec", ["./nodir", "../nodir", "/nodir"])
def test_a_directory_that_there_is_not(spec):
    with pytest.raises(SpecError, match=f"there is no directory {spec}"):
        blockframe_resolve(spec, Request())


def test_a_name_that_is_also_that_of_a_directory_is_left_to_others(tmp_path, monkeypatch):
    (tmp_path / "mlp").mkdir()
    monkeypatch.chdir(tmp_path)
    assert blockframe_resolve("mlp", Request()) is None
