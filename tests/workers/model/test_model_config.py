from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from specs.errors import UsageError
from workers.model.config import PRESETS, ModelConfig, YarnScaling

# The published config.json of DeepSeek-R1, without what says nothing of sizes.
R1: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "first_k_dense_replace": 3,
    "hidden_act": "silu",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "v_head_dim": 128,
    "vocab_size": 129280,
}


def test_r1s_own_config_is_read_and_the_layer_preset_has_its_widths() -> None:
    r1 = ModelConfig.from_hf(R1)
    assert r1.rope_scaling == YarnScaling(40, 4096, 32, 1, 1.0, 1.0)
    assert r1.fp8 and r1.latent_size == 576
    assert replace(r1, num_hidden_layers=4, first_k_dense_replace=1) == PRESETS["deepseek-v3-layer"]
    r1.check_shards(8)


@pytest.mark.parametrize("name", PRESETS)
def test_a_config_reads_back_what_it_writes(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PRESETS[name].to_hf()))
    assert ModelConfig.from_folder(tmp_path) == PRESETS[name]
    plain = replace(PRESETS[name], fp8=False, rope_scaling=None)
    assert ModelConfig.from_hf(plain.to_hf()) == plain


def test_transformers_5_writes_rope_parameters() -> None:
    config = {key: value for key, value in R1.items() if key not in ("rope_scaling", "rope_theta")}
    config["rope_parameters"] = {**R1["rope_scaling"], "rope_type": "yarn", "rope_theta": 50000.0}
    assert ModelConfig.from_hf(config) == replace(ModelConfig.from_hf(R1), rope_theta=50000.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'; allowed is 'deepseek_v3'"),
        ({"scoring_func": "softmax"}, "scoring_func is 'softmax'; this model has 'sigmoid'"),
        ({"q_lora_rank": None}, "config.json has no q_lora_rank"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is true"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling has type 'linear'; allowed are 'yarn' and 'default'"),
        ({"quantization_config": {"quant_method": "awq"}}, "quant_method 'awq' and weight_block_size None; allowed"),
    ],
)
def test_another_model_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ModelConfig.from_hf({**R1, **change})


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"config.json can't be read.*Hugging Face folder"):
        ModelConfig.from_folder(tmp_path)


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_nano_is_cut_in_up_to_four(shards: int) -> None:
    PRESETS["deepseek-v3-nano"].check_shards(shards)


@pytest.mark.parametrize("shards", [3, 8])
def test_what_can_not_be_cut_is_named_with_what_can(shards: int) -> None:
    with pytest.raises(UsageError, match=rf" = \d+ can't be cut into {shards} equal parts.*fit this model: 1, 2"):
        PRESETS["deepseek-v3-nano"].check_shards(shards)


def test_plain_weights_are_not_cut_in_blocks() -> None:
    replace(PRESETS["deepseek-v3-nano"], fp8=False).check_shards(8)
