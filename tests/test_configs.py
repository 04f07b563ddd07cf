"""YAML from anywhere: plain values of a sane size, or one sentence with the file's name and the line."""

import pytest
import yaml

from zoo.configs import read_yaml
from zoo.errors import UserError

_LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model: [a,", "not valid YAML"),
        ("model: fae\n data: x", "line 2"),
        ("x: !!python/object/apply:os.mkdir [made]", "line 1: not valid YAML of plain values"),
        ("x: !!python/name:os.system", "line 1"),
        (_LAUGHS, "refused"),
        ("a: &a [*a]", r"\*a is inside itself"),
        ("[" * 5000 + "]" * 5000, "refused: .* levels"),
        ("? [a, b]\n: 1\n? {c: d}\n: 2", "plain values"),
        ("when: 2020-13-45", "plain values"),
        ("a: \x07", "not a YAML text file|plain values"),
        ("a" * (1 << 19), "larger than 256 KiB"),
    ],
)
def test_hostile_and_broken_files(text, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=told) as found:
        read_yaml(path)
    assert str(found.value).startswith(str(path))
    assert not (tmp_path / "made").exists()


def test_not_text(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00\x01\x80")
    with pytest.raises(UserError, match="not a YAML text file"):
        read_yaml(tmp_path / "config.yaml")


def test_aliases_and_merges_of_sane_size_stay(tmp_path):
    text = "base: &base {lr: 0.1}\nmodel: {<<: *base, wd: 0}\nlist: &l [1, 2]\nagain: [*l, *l]\n"
    (tmp_path / "config.yaml").write_text(text)
    assert read_yaml(tmp_path / "config.yaml") == yaml.safe_load(text)
