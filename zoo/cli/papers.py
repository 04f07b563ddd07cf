"""``zoo papers [SUITE]``: the papers' tables and the suites that repeat them."""

import argparse
from pathlib import Path

from benchmarks.papers import renewed, rows, suites, told
from benchmarks.plan import read_plan
from benchmarks.published import known_tables, read_table
from zoo.errors import UserError
from zoo.files import write_text
from zoo.registry import nearest


def main(argv: list[str]) -> int:
    """List the papers' tables and their suites, or show one suite.

    Args:
        argv: arguments after ``papers``.

    Returns:
        int: 0.

    Raises:
        UserError: no such suite.
    """
    parser = argparse.ArgumentParser(prog="zoo papers")
    parser.add_argument("suite", nargs="?", metavar="SUITE", help="show rows and settings of one")
    parser.add_argument(
        "--markdown", metavar="FILE", help="write the table of settings between the marks of a document"
    )
    arguments = parser.parse_args(argv)
    if arguments.markdown:
        path = Path(arguments.markdown)
        write_text(path, renewed(path.read_text(encoding="utf-8")))
        return 0
    if arguments.suite is None:
        print("\n".join(_listing()))
        return 0
    known = suites()
    if arguments.suite not in known:
        close = nearest(arguments.suite, known) or sorted(known)
        raise UserError(f"no suite '{arguments.suite}' repeats a published table; nearest: {', '.join(close)}")
    print("\n".join(_one(arguments.suite)))
    return 0


def _listing() -> list[str]:
    lines = []
    for paper in known_tables():
        content = read_table(paper)
        source = content["source"]
        lines.append(f"{source['title']} ({source['venue']})")
        for suite, about in content.get("suites", {}).items():
            found = rows(suite, read_plan(suite))
            twins = sum(bool(row.methods) for row in found)
            lines += [f"  {about['table']}: zoo benchmark {suite} --out DIR", f"    needs: {about['needs']}"]
            lines.append(f"    {twins} of {len(found)} published rows have a runnable twin: zoo papers {suite}")
        if not content["tables"]:
            lines.append(f"  no table known: {content['note']}")
        elif not content.get("suites"):
            lines.append("  published figures only: shown beside ours where method, data set and protocol are the same")
    return lines


def _one(suite: str) -> list[str]:
    paper, about = suites()[suite]
    plan = read_plan(suite)
    lines = [f"{read_table(paper)['source']['title']}: {about['table']}", f"needs: {about['needs']}", ""]
    for row in rows(suite, plan):
        remark = f" ({row.remark})" if row.remark else ""
        lines.append(f"row   {row.name}: {', '.join(row.methods) or 'not in this suite'}{remark}")
    return [*lines, *told(suite, plan)]
