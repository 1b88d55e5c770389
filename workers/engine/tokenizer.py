"""Text to token ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from specs.errors import UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Tokenizers


class Tokenizer(Protocol):
    @property
    def stop_tokens(self) -> frozenset[int]:
        """Ids that end a completion."""

    def encode(self, text: str) -> list[int]: ...


class ByteTokenizer:
    """One id for each byte of the text's UTF-8, the byte itself. Nothing ends a completion."""

    stop_tokens: frozenset[int] = frozenset()

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


class HuggingFaceTokenizer:
    """A folder's tokenizer.json, read by the ``tokenizers`` package."""

    def __init__(self, tokenizer: Tokenizers, stop_tokens: frozenset[int]) -> None:
        self._tokenizer, self.stop_tokens = tokenizer, stop_tokens

    def encode(self, text: str) -> list[int]:
        """With the special tokens that tokenizer.json puts before or after a text."""
        return list(self._tokenizer.encode(text).ids)


def load_tokenizer(folder: Path | None) -> Tokenizer:
    """That of a model's folder; bytes where there is no folder, or no tokenizer.json in it.

    Raises UsageError where tokenizer.json can't be read, or the package that reads it is missing.
    """
    file = None if folder is None else folder / "tokenizer.json"
    if folder is None or file is None or not file.exists():
        return ByteTokenizer()
    try:
        from tokenizers import Tokenizer as Tokenizers
    except ImportError as error:
        raise UsageError(f"{file} needs the package tokenizers: pip install tokenizers") from error
    try:
        tokenizer = Tokenizers.from_file(str(file))
    # The package raises plain Exception for a file that it can't read.
    except Exception as error:
        raise UsageError(f"{file} can't be read: {error}; it must be a tokenizer.json of Hugging Face") from error
    return HuggingFaceTokenizer(tokenizer, _stop_tokens(folder))


def _stop_tokens(folder: Path) -> frozenset[int]:
    """``eos_token_id`` of generation_config.json, or else of config.json: one id, several or none."""
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        if not file.exists():
            continue
        try:
            ids = json.loads(file.read_text()).get("eos_token_id")
        except (OSError, ValueError) as error:
            raise UsageError(f"{file} can't be read: {error}; it must be a JSON object") from error
        if ids is not None:
            return frozenset([ids] if isinstance(ids, int) else ids)
    return frozenset()
