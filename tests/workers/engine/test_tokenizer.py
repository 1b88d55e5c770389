from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs.errors import UsageError
from workers.engine.tokenizer import ByteTokenizer, HuggingFaceTokenizer, load_tokenizer


@given(st.text())
def test_bytes_come_back_as_the_text(text: str) -> None:
    tokenizer = ByteTokenizer()
    tokens = tokenizer.encode(text)
    assert bytes(tokens).decode() == text


def test_without_a_tokenizer_ids_are_bytes(tmp_path: Path) -> None:
    assert isinstance(load_tokenizer(None), ByteTokenizer)
    assert isinstance(load_tokenizer(tmp_path), ByteTokenizer)


def write_tokenizer(folder: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"<s>": 0, "night": 1, "train": 2, "?": 3, "</s>": 4}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))


def test_a_folders_tokenizer_is_used_with_its_special_tokens(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    assert tokenizer.encode("night train") == [0, 1, 2]
    assert tokenizer.stop_tokens == frozenset()


@pytest.mark.parametrize(
    ("files", "stop"),
    [
        ({"config.json": {"eos_token_id": 4}}, {4}),
        ({"config.json": {"eos_token_id": 4}, "generation_config.json": {"eos_token_id": [2, 3]}}, {2, 3}),
        ({"config.json": {"eos_token_id": 0}, "generation_config.json": {}}, {0}),
    ],
)
def test_stop_tokens_are_those_of_generation(tmp_path: Path, files: dict[str, object], stop: set[int]) -> None:
    write_tokenizer(tmp_path)
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert load_tokenizer(tmp_path).stop_tokens == stop


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_broken_file_is_named(tmp_path: Path, name: str) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / name).write_text("{")
    with pytest.raises(UsageError, match=rf"{name} can't be read: .*; it must be a"):
        load_tokenizer(tmp_path)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UsageError, match="needs the package tokenizers: pip install tokenizers"):
        load_tokenizer(tmp_path)
