"""``zoo models [NAME]``: what there is, from the registry."""

import argparse
from pathlib import Path

from zoo.registry import FAMILIES, Method, find, methods


def main(argv: list[str]) -> int:
    """List all methods, or describe one.

    Args:
        argv: arguments after ``zoo models``.

    Raises:
        UserError: unknown name.
    """
    parser = argparse.ArgumentParser(prog="zoo models", description="Methods: family, paper, year, needs.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="describe one method")
    parser.add_argument("--markdown", action="store_true", help="the table of the README")
    arguments = parser.parse_args(argv)
    if arguments.name:
        describe(find(arguments.name))
    elif arguments.markdown:
        print(markdown())
    else:
        for family in FAMILIES:
            print(family)
            for method in methods().values():
                if method.family == family:
                    print(f"  {method.name:<22}{method.reference['year']:<6}{needs(method):<30}{method.summary}")
    return 0


def needs(method: Method) -> str:
    """Dimensions, way of fitting and whether the authors' checkpoints can be imported, in few words."""
    dims = "/".join(f"{d}-D" for d in method.dims)
    fitting = "one pass" if method.fitting == "single_pass" else "gradients"
    return f"{dims}, {fitting}" + (f", imports {method.checkpoint_format}" if method.checkpoint_format else "")


def markdown() -> str:
    """The table of methods in the README."""
    rows = ["| method | family | needs | paper |", "|---|---|---|---|"]
    for method in methods().values():
        paper = method.reference
        rows.append(
            f"| `{method.name}` | {method.family.replace('_', '-')} | {needs(method)} "
            f"| [{paper['title']}]({paper['url']}), {paper['venue']} {paper['year']} |"
        )
    return "\n".join(rows)


def describe(method: Method) -> None:
    """Print everything the file says of one method."""
    paper = method.reference
    source = Path(__file__).parent / method.family / f"{method.name}.py"
    print(f"{method.name} ({method.class_name}, {method.family}): {method.summary}")
    print(f"paper:  {paper['title']}, {paper['venue']} {paper['year']}, {paper['url']}")
    print(f"needs:  {needs(method)}")
    print(f"code:   {source}")
    print(f"use:    lightning fit --config models/{method.name} --config data/folder --data.root DIR")
    print(f"help:   lightning fit --model.help {method.name}")
