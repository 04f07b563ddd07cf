"""The words of a command line as users write them: files before options, tuples, negative numbers."""

import re
from collections.abc import Sequence
from typing import Any

_NUMBER = r"[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_NEGATIVE = re.compile(rf"-{_NUMBER}")
_LIST = re.compile(rf"{_NUMBER}(?:\s*,\s*{_NUMBER})+")
_TUPLE = re.compile(rf"\(\s*({_NUMBER}(?:\s*,\s*{_NUMBER})*)\s*,?\s*\)")


def tidy(words: Sequence[str]) -> list[str]:
    """Words that the parser takes as they are meant.

    ``--config`` comes first, because options win over files wherever they stand; ``(0, 4095)`` and ``-10,255`` become
    lists; values that begin with a minus are tied to their option.
    """
    files: list[str] = []
    rest: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        following = words[position + 1] if position + 1 < len(words) else None
        key, equals, value = word.partition("=")
        if key in ("--config", "-c") and (equals or following is not None):
            files += [word] if equals or following is None else [word, following]
            position += 1 if equals else 2
        elif key.startswith("--") and equals:
            rest.append(f"{key}={as_list(value)}")
            position += 1
        elif word.startswith("--") and following is not None and _is_value(following):
            rest.append(f"{word}={as_list(following)}")
            position += 2
        else:
            rest.append(word)
            position += 1
    return files + rest


def _is_value(word: str) -> bool:
    return any(pattern.fullmatch(word) for pattern in (_NEGATIVE, _LIST, _TUPLE))


def as_list(text: str) -> str:
    """``[0, 4095]`` for ``(0, 4095)`` and ``0,4095``; other text as it is."""
    text = text.strip() if _TUPLE.fullmatch(text.strip()) else text
    inner = _TUPLE.fullmatch(text)
    if inner is not None:
        return f"[{inner.group(1)}]"
    return f"[{text}]" if _LIST.fullmatch(text) else text


def with_lists(content: Any) -> Any:
    """A configuration's content with ``(0, 4095)``, which YAML takes for a text, as lists; deep."""
    if isinstance(content, dict):
        return {key: with_lists(value) for key, value in content.items()}
    if isinstance(content, list):
        return [with_lists(value) for value in content]
    found = _TUPLE.fullmatch(content.strip()) if isinstance(content, str) else None
    if found is None:
        return content
    numbers = [float(part) for part in found.group(1).split(",")]
    return [int(number) if number.is_integer() else number for number in numbers]
