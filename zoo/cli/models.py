"""``zoo models [NAME]``: what there is, from the registry."""

import argparse
import importlib.util
from pathlib import Path

from zoo.configs import shipped_configs
from zoo.errors import UserError
from zoo.files import write_text
from zoo.registry import FAMILIES, Method, Variant, find, is_outside, load_class, methods, outside, variants


def main(argv: list[str]) -> int:
    """List all methods, or describe one.

    Args:
        argv: arguments after ``zoo models``.

    Raises:
        UserError: unknown name.
    """
    parser = argparse.ArgumentParser(prog="zoo models", description="Methods: family, paper, year, needs.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="describe one method")
    parser.add_argument("--markdown", action="store_true", help="print the table of the README")
    parser.add_argument("--readme", metavar="FILE", help="renew the table in this file")
    arguments = parser.parse_args(argv)
    if arguments.name in variants():
        describe_variant(variants()[arguments.name])
    elif arguments.name and is_outside(arguments.name):
        describe(outside(load_class(arguments.name)))
    elif arguments.name:
        describe(find(arguments.name))
    elif arguments.markdown:
        print(markdown())
    elif arguments.readme:
        renew(Path(arguments.readme))
    else:
        for family in FAMILIES:
            print(family)
            for method in methods().values():
                if method.family == family:
                    print(f"  {method.name:<22}{method.reference['year']:<6}{needs(method):<30}{method.summary}")
                for variant in _variants_of(method) if method.family == family else ():
                    print(f"    {variant.name:<26}variant of {method.name:<19}{variant.summary}")
    return 0


def _variants_of(method: Method) -> list[Variant]:
    return [one for one in variants().values() if one.method == method]


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
        rows += [
            f"| `{one.name}` | {method.family.replace('_', '-')} | variant of `{method.name}` | {one.summary} |"
            for one in _variants_of(method)
        ]
    return "\n".join(rows)


def renew(readme: Path) -> None:
    """Replace the table between the two marks."""
    before, start, rest = readme.read_text(encoding="utf-8").partition("<!-- methods -->")
    _, end, after = rest.partition("<!-- /methods -->")
    if not start or not end:
        raise UserError(f"{readme}: no marks <!-- methods --> and <!-- /methods --> to write between")
    write_text(readme, f"{before}{start}\n{markdown()}\n{end}{after}")


def describe(method: Method) -> None:
    """Print everything the file says of one method."""
    paper = method.reference
    name = method.name if method.family in FAMILIES else method.class_path
    source = importlib.util.find_spec(method.class_path.rpartition(".")[0])
    chosen = f"--config models/{name}" if f"models/{name}" in shipped_configs() else f"--model {name}"
    print(f"{method.name} ({method.class_name}, {method.family}): {method.summary}")
    if paper:
        print(f"paper:  {paper['title']}, {paper['venue']} {paper['year']}, {paper['url']}")
    print(f"needs:  {needs(method)}")
    if source is not None:
        print(f"code:   {source.origin}")
    print(f"use:    lightning fit {chosen} --config data/folder --data.root DIR")
    print(f"help:   lightning fit --model.help {name}")


def describe_variant(variant: Variant) -> None:
    """Print what a variant changes in its method."""
    print(f"{variant.name} (variant of {variant.method.name}): {variant.summary}")
    for key, value in variant.arguments.items():
        print(f"  {key}: {value}")
    print(f"use:    lightning fit --config models/{variant.name} --config data/folder --data.root DIR")
    print(f"method: zoo models {variant.method.name}")
