"""From a model type to a problem: full size on meta, and a proxy that runs."""

from functools import cache

import pytest
import torch

from blockframe.data import TEXT, Dataset, Samples
from blockframe.errors import InputError, SpecError
from blockframe.problem import Problem, Request
from blockframe_transformers import blockframe_resolve

PARAMETERS = {
    "gpt2": 124_439_808,
    "llama": 6_738_415_616,
    "opt": 125_239_296,
    "gptj": 6_050_882_784,
    "falcon": 6_921_720_704,
    "gemma2": 2_614_341_888,
    "mixtral": 46_702_792_704,
    "bloom": 16_156_544,
    "mamba": 159_308_544,
    "bert": 109_514_298,
    "t5": 60_506_624,
    "vit": 85_800_194,
}
LANGUAGE = sorted(PARAMETERS.keys() - {"vit"})


@cache
def default(spec: str) -> Problem:
    return resolve(spec)


def resolve(spec: str, **request) -> Problem:
    problem = blockframe_resolve(spec, Request(**request))
    assert problem is not None
    return problem


def logits(problem: Problem) -> torch.Tensor:
    with torch.no_grad():
        return problem.module(*problem.inputs, **problem.keywords)[problem.output]


class TestFull:
    @pytest.mark.parametrize("spec", PARAMETERS)
    def test_it_has_every_parameter_and_no_numbers(self, spec):
        problem = default(spec)
        assert problem.parameters == PARAMETERS[spec]
        assert not problem.has_weights
        assert all(p.is_meta for p in problem.module.parameters())
        assert not any(t.is_meta for t in problem.inputs)  # its data is the proxy's
        assert not problem.module.training

    @pytest.mark.parametrize("spec", PARAMETERS)
    def test_it_runs_without_cache_in_plain_operations(self, spec):
        config = default(spec).module.config
        assert config._attn_implementation == "eager"
        assert not getattr(config, "use_cache", False)


class TestProxy:
    @pytest.mark.parametrize("spec", LANGUAGE)
    def test_it_answers_for_every_token(self, spec):
        proxy = default(spec).proxy
        assert proxy.inputs[0].shape == proxy.targets.shape == (8, 16)
        assert logits(proxy).shape == (8, 16, 256)
        assert TEXT.words in proxy.data

    @pytest.mark.parametrize("spec", PARAMETERS)
    def test_it_is_small_and_of_the_same_class(self, spec):
        problem = default(spec)
        assert 8 * 16 * 10 < problem.proxy.parameters < 500_000
        assert type(problem.proxy.module) is type(problem.module)
        assert all(p.dtype == torch.float32 for p in problem.proxy.module.parameters())

    @pytest.mark.parametrize("spec", PARAMETERS)
    def test_its_parameters_are_those_of_the_full_model_less_some_layers(self, spec):
        full, proxy = (
            dict(p.module.named_parameters()) for p in (default(spec), default(spec).proxy)
        )
        assert proxy.keys() <= full.keys()
        assert all(proxy[name].dim() == full[name].dim() for name in proxy)

    @pytest.mark.parametrize("spec", PARAMETERS)
    def test_its_loss_has_a_gradient(self, spec):
        proxy = default(spec).proxy
        answers = proxy.module(*proxy.inputs, **proxy.keywords)["logits"].flatten(0, -2)
        loss = torch.nn.functional.cross_entropy(answers, proxy.targets.flatten())
        gradients = torch.autograd.grad(
            loss, list(proxy.module.parameters()), allow_unused=True, materialize_grads=True
        )
        moved = [g.any().item() for g in gradients]
        assert sum(moved) >= 0.9 * len(moved)

    @pytest.mark.parametrize("spec", ["gpt2", "vit"])
    def test_the_seed_decides(self, spec):
        first, again, other = (logits(resolve(spec, seed=s).proxy) for s in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_the_global_seed_is_left_alone(self):
        torch.manual_seed(0)
        expected = torch.rand(1)
        torch.manual_seed(0)
        resolve("gpt2", seed=3)
        assert torch.equal(torch.rand(1), expected)

    @pytest.mark.parametrize(
        ("spec", "note"),
        [
            ("gpt2", "2 of 12 layers, width 64 of 768, 4 of 12 heads, vocabulary 256 of 50,257"),
            ("bert", "2 of 12 layers, width 64 of 768, 4 of 12 heads, vocabulary 256 of 30,522"),
            (
                "vit",
                "2 of 12 layers, width 64 of 768, 4 of 12 heads, "
                "pictures of 16 of 224 pixels a side, 10 labels instead of 2",
            ),
        ],
    )
    def test_it_says_how_it_was_reduced(self, spec, note):
        assert default(spec).note == default(spec).proxy.note == note

    def test_init(self):
        plain, drawn = resolve("gpt2").proxy.module, resolve("gpt2", init="xavier").proxy.module
        old, new = (m.transformer.h[0].mlp.c_fc.weight for m in (plain, drawn))
        assert new.shape == (64, 256)
        assert abs(new.std().item() - (2 / 320) ** 0.5) < 0.005
        assert not torch.equal(old, new)
        assert torch.equal(plain.transformer.wte.weight, drawn.transformer.wte.weight)


class TestData:
    def test_a_causal_model_is_asked_for_the_next_token(self):
        proxy = default("gpt2").proxy
        assert torch.equal(proxy.inputs[0][:, 1:], proxy.targets[:, :-1])
        assert bytes(proxy.inputs[0][0].tolist()) in TEXT.text()

    def test_a_masked_model_is_asked_for_all_tokens_and_does_not_see_some(self):
        proxy = default("bert").proxy
        hidden = proxy.inputs[0] != proxy.targets
        assert hidden.sum(dim=1).tolist() == [2] * 8
        assert (proxy.inputs[0][hidden] == 255).all()

    def test_a_sequence_to_sequence_model_goes_on_with_the_text(self):
        proxy = default("t5").proxy
        shifted = proxy.keywords["decoder_input_ids"]
        assert torch.equal(shifted[:, 1:], proxy.targets[:, :-1])
        assert (shifted[:, 0] == 0).all()
        passage = proxy.inputs[0][0].tolist() + proxy.targets[0].tolist()
        assert bytes(passage) in TEXT.text()

    def test_a_file(self, tmp_path):
        (tmp_path / "a.txt").write_text("All work and no play makes Jack a dull boy. " * 9)
        proxy = resolve("gpt2", data=str(tmp_path / "a.txt"), samples=3).proxy
        assert proxy.inputs[0].shape == (3, 16)
        assert proxy.data == (
            "text of a.txt, 3 sequences of 17 tokens; weights drawn at random (default, seed 0)"
        )

    def test_random_tokens_follow_the_seed(self):
        first, other = (resolve("gpt2", data="random", seed=s).proxy.inputs[0] for s in (1, 2))
        assert not torch.equal(first, other)

    def test_a_loss_on_one_hot_vectors(self):
        proxy = resolve("gpt2", loss="mse").proxy
        assert proxy.targets.shape == (8, 16, 256)
        assert torch.equal(proxy.targets.argmax(dim=-1), default("gpt2").proxy.targets)

    @pytest.mark.parametrize("data", ["text", "random"])
    def test_no_sequences(self, data):
        with pytest.raises(InputError, match="from 1 on"):
            resolve("gpt2", samples=0, data=data)

    def test_a_short_file(self, tmp_path):
        (tmp_path / "a.txt").write_text("too short")
        with pytest.raises(InputError, match="too few"):
            resolve("gpt2", data=str(tmp_path / "a.txt"))

    def test_pictures_of_a_data_set_are_enlarged(self):
        grid = torch.arange(4 * 8 * 8).reshape(4, 8, 8).numpy()
        mine = Dataset("mine", "my pictures", lambda: Samples(grid, [0, 1, 2, 1]))
        proxy = resolve("vit", data="mine", datasets={"mine": mine}).proxy
        assert proxy.inputs[0].shape == (4, 3, 16, 16)
        assert proxy.inputs[0][0, 0, ::2, ::2].tolist() == grid[0].tolist()
        assert logits(proxy).shape == (4, 3)

    def test_pictures_without_a_data_set_are_random(self):
        proxy = default("vit").proxy
        assert proxy.data.startswith("random pictures")
        assert logits(proxy).shape == (32, 10)

    def test_real_targets_are_no_classes(self):
        mine = Dataset("mine", "mine", lambda: Samples([[[1.0]]], [0.5]))
        with pytest.raises(InputError, match="no pictures with classes"):
            resolve("vit", data="mine", datasets={"mine": mine})


class TestSettings:
    def test_they_change_the_full_model_and_the_proxy(self):
        problem = resolve("gpt2", settings={"activation_function": "relu", "n_layer": 3})
        for each in (problem, problem.proxy):
            assert isinstance(each.module.transformer.h[0].mlp.act, torch.nn.ReLU)
        assert len(problem.module.transformer.h) == 3

    def test_names_that_all_types_share_are_understood(self):
        problem = resolve("gpt2", settings={"hidden_size": 96, "num_hidden_layers": 1})
        assert problem.module.transformer.wte.weight.shape == (50257, 96)
        assert len(problem.module.transformer.h) == 1

    def test_a_small_model_is_run_as_it_is(self):
        problem = resolve("gpt2", settings={"n_layer": 1, "n_embd": 8, "n_head": 2})
        assert problem.proxy is None
        assert problem.has_weights
        assert logits(problem).shape == (8, 16, 50257)

    def test_a_part_is_reached_by_a_dot(self):
        problem = resolve("gemma3", settings={"text_config.hidden_size": 128})
        assert problem.module.model.embed_tokens.weight.shape[1] == 128

    @pytest.mark.parametrize(
        ("spec", "settings", "message"),
        [
            ("gpt2", {"n_layr": 1}, "no setting 'n_layr'. Did you mean n_layer"),
            ("gpt2", {"use_cache": True}, "no setting 'use_cache'"),
            ("gemma3", {"hidden_size": 64}, "Did you mean text_config.hidden_size"),
            ("gpt2", {"n_layer": "many"}, "cannot be configured .*expected int"),
            ("gpt2", {"n_layer": -2}, "n_layer cannot be -2. It is 12 by default"),
            (
                "gpt2",
                {"n_head": 7},
                r"cannot be built .*divisible.*\)\. Look at the values given with --set\.$",
            ),
            ("gpt2", {"activation_function": "gelo"}, "no activation 'gelo'. Did you mean gelu"),
        ],
    )
    def test_what_cannot_be_set(self, spec, settings, message):
        with pytest.raises(SpecError, match=message):
            resolve(spec, settings=settings)

    def test_defaults_that_make_no_model(self):
        with pytest.raises(SpecError, match="defaults of some types alone make no model"):
            resolve("esm")


class TestModelsWithParts:
    def test_the_language_model_of_a_model_that_sees(self):
        module = default("gemma3").module
        assert type(module).__name__ == "Gemma3ForCausalLM"

    def test_what_reads_neither_tokens_nor_pictures(self):
        with pytest.raises(SpecError, match="PerceiverForMaskedLM reads inputs, not input_ids"):
            resolve("perceiver")

    def test_why_there_is_no_proxy(self):
        problem = resolve("mobilenet_v1")
        assert problem.proxy is None
        assert problem.note == "no proxy: its smallest form has more than 1,000,000 parameters"


def test_logging_of_transformers_is_left_as_it_was():
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    resolve("gpt2")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


class TestInitialization:
    @pytest.mark.parametrize("spec", ["gpt_oss", "llama4_text", "mixtral"])
    def test_experts_get_the_variance_of_their_inputs(self, spec):
        """Whether a layer holds them as (experts, inputs, outputs) or the other way round."""
        module = resolve(spec, init="lecun").runnable.module
        width = module.config.hidden_size
        weights = {n: p.detach() for n, p in module.named_parameters() if ".experts." in n}
        up = next(p for n, p in weights.items() if "gate_up_proj" in n and "bias" not in n)
        assert width in up.shape[1:]
        inner = up.numel() // (len(up) * width) // 2
        assert up.std().item() == pytest.approx(width**-0.5, rel=0.05)
        down = next(p for n, p in weights.items() if "down_proj" in n and "bias" not in n)
        assert down.std().item() == pytest.approx(inner**-0.5, rel=0.05)

    def test_biases_of_experts_are_no_matrices(self):
        module = resolve("gpt_oss", init="xavier").runnable.module
        biases = [p for n, p in module.named_parameters() if n.endswith("_proj_bias")]
        assert biases
        assert all(p.dim() == 2 and not p.detach().any() for p in biases)

    def test_every_scheme_and_a_scale(self):
        plain, half = (resolve("gpt2", init=f"orthogonal{s}").runnable for s in ("", ":0.5"))
        for (name, a), b in zip(
            plain.module.named_parameters(), half.module.parameters(), strict=True
        ):
            drawn = "c_" in name and name.endswith("weight")
            assert torch.allclose(b, 0.5 * a if drawn else a), name
        assert "orthogonal:0.5" in half.data
