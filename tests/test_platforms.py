"""What other systems and newer Pythons need: no module of POSIX alone is imported where the program starts."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.errors import UserError
from zoo.files import held

HOME = Path(__file__).parents[1]
POSIX = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios"}


def _top_imports(tree):
    """Modules that are imported when the file is; imports in functions and in ``try`` are not."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_nothing_of_posix_alone_is_imported_at_the_top():
    files = [path for folder in ("zoo", "datamodules", "benchmarks") for path in (HOME / folder).rglob("*.py")]
    wrong = [
        f"{path.relative_to(HOME)}: {name}"
        for path in files
        if "speed" not in path.parts
        for name in _top_imports(ast.parse(path.read_text(encoding="utf-8")))
        if name.split(".")[0] in POSIX
    ]
    assert len(files) > 100
    assert wrong == []


def test_a_folder_is_held_by_one_process_and_let_go_when_it_is_killed(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom zoo.files import held\n"
        "with held(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=HOME)
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"in use by process {other.pid} on"), held(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
    with held(tmp_path):
        assert (tmp_path / ".held-by").is_file()
    assert not (tmp_path / ".held-by").exists()
