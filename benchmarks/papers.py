"""The tables of the papers, the suites that run them, and our settings beside the stated ones.

Everything stands in ``benchmarks/published``: figures, ``suites`` (which table each repeats, and what data it needs)
``remarks`` on rows (re-constructions, what is open), and ``stated``, the settings that the paper states, with the place
where they stand. A third entry of a setting is a deviation: why ours differs.
"""

import fnmatch
import inspect
import re
from typing import Any, NamedTuple

from benchmarks.plan import Cell, Plan, read_plan
from benchmarks.published import known_tables, plain_name, read_table
from datamodules.registry import cards
from zoo.errors import UserError


class Setting(NamedTuple):
    """One setting of a suite's method beside the paper's.

    Attributes:
        method: name in the suite.
        key: option, as on the command line.
        ours: value in the cell.
        stated: value in the paper.
        where: section or table.
        deviation: why ours differs; empty where it follows the paper.
    """

    method: str
    key: str
    ours: Any
    stated: Any
    where: str
    deviation: str

    @property
    def follows(self) -> bool:
        """Whether ours is the stated value."""
        return _same(self.ours, self.stated)


class Row(NamedTuple):
    """A row of a published table.

    Attributes:
        name: there.
        methods: of the suite that repeat it; empty: none does.
        remark: what is a re-construction, what is open, and why.
    """

    name: str
    methods: tuple[str, ...]
    remark: str = ""


def value(cell: Cell, key: str) -> Any:
    """An option of a cell: as configured, else the default of the constructor.

    Args:
        cell: of a plan.
        key: ``model.KEY``, ``data.KEY``, ``metrics.KEY``, ``trainer.KEY`` or ``callback.CLASS.KEY``;
            ``optimizer``, the names of those that the method creates; ``official.SET.PART``, a count of a data set's
            card, which ``zoo data check`` compares with the files.
    """
    part, _, name = key.partition(".")
    if part == "optimizer":
        return _optimizers(cell.config["model"]["class_path"])
    if part == "official":
        data_set, _, name = name.partition(".")
        return cards()[data_set].official.get(name)
    if part == "callback":
        kind, _, name = name.partition(".")
        for callback in cell.config.get("trainer", {}).get("callbacks", []):
            if callback["class_path"].rpartition(".")[2] == kind:
                return callback.get("init_args", {}).get(name)
        return None
    section = cell.config.get(part, {})
    if part not in ("model", "data"):
        return section.get(name)
    given = section.get("init_args", {})
    return given[name] if name in given else _default(section["class_path"], name)


def _default(class_path: str, name: str) -> Any:
    from importlib import import_module

    module, _, class_name = class_path.rpartition(".")
    for cls in getattr(import_module(module), class_name).__mro__:
        parameter = inspect.signature(cls.__init__).parameters.get(name)
        if parameter is not None:
            return parameter.default
    raise UserError(f"{class_path} has no argument '{name}'")


def _optimizers(class_path: str) -> str:
    """Names of ``torch.optim`` in what configures a method's optimisers."""
    from importlib import import_module

    module, _, class_name = class_path.rpartition(".")
    source = inspect.getsource(getattr(import_module(module), class_name).configure_optimizers)
    return ", ".join(dict.fromkeys(re.findall(r"torch\.optim\.(\w+)\(", source)))


def _same(ours: Any, stated: Any) -> bool:
    if isinstance(ours, list | tuple) and isinstance(stated, list | tuple):
        return len(ours) == len(stated) and all(map(_same, ours, stated))
    return bool(ours == stated)


def suites() -> dict[str, tuple[str, dict[str, Any]]]:
    """Name of the published tables and what they say of the suite, by the suite's name."""
    return {
        suite: (name, about) for name in known_tables() for suite, about in read_table(name).get("suites", {}).items()
    }


def settings(suite: str, plan: Plan) -> list[Setting]:
    """Every stated setting of every method of a suite, beside ours.

    Args:
        suite: name of a shipped benchmark that repeats a published table.
        plan: its plan.
    """
    paper, _ = suites()[suite]
    found: list[Setting] = []
    first = {cell.method: cell for cell in reversed(plan.cells)}
    for group in read_table(paper).get("stated", []):
        if suite not in group.get("suites", [suite]):
            continue
        for method in reversed(first):
            if not any(fnmatch.fnmatch(method, pattern) for pattern in group["methods"]):
                continue
            for key, (stated, where, *deviation) in group["settings"].items():
                ours = value(first[method], key)
                found.append(Setting(method, key, ours, stated, where, deviation[0] if deviation else ""))
    return found


def rows(suite: str, plan: Plan) -> list[Row]:
    """The rows of the published table, each with the methods of the suite that stand for it."""
    paper, about = suites()[suite]
    content = read_table(paper)
    named = content.get("ours", {})
    methods = list(dict.fromkeys(cell.method for cell in plan.cells))
    tables = [table for table in content["tables"] if str(table["name"]).startswith(about["table"])]
    names = dict.fromkeys(str(row) for table in tables for row in table.get("rows", {}))
    found = []
    for name in names:
        wanted = named.get(name, name)
        wanted = {plain_name(str(one)) for one in (wanted if isinstance(wanted, list) else [wanted])}
        repeated = tuple(one for one in methods if plain_name(one) in wanted)
        found.append(Row(name, repeated, content.get("remarks", {}).get(name, "")))
    return found


def told(suite: str, plan: Plan) -> list[str]:
    """Our settings beside the paper's in lines, for ``--dry-run``; nothing for a suite that repeats no table."""
    if suite not in suites():
        return []
    return [
        f"paper {one.method}: {one.key} {_shown(one.ours)} ({one.where})"
        + ("" if one.follows else f"; {_differs(one)}")
        for one in settings(suite, plan)
    ]


def _differs(one: Setting) -> str:
    return f"stated {_shown(one.stated)}: {one.deviation}"


def _shown(setting: Any) -> str:
    return str(setting).replace("'", "")


# ---- the document -------------------------------------------------------------------------------------------------


def renewed(text: str) -> str:
    """A document with the table between ``<!-- papers -->`` marks made anew."""
    before, start, rest = text.partition("<!-- papers -->\n")
    _, end, after = rest.partition("<!-- /papers -->")
    return f"{before}{start}{markdown()}\n{end}{after}" if start and end else text


def markdown() -> str:
    """All suites: rows, commands, settings, protocols and deviations."""
    lines: list[str] = []
    for paper in known_tables():
        content = read_table(paper)
        for suite, about in content.get("suites", {}).items():
            plan = read_plan(suite)
            protocol = plan.cells[0].config.get("metrics", {}).get("protocol", "common")
            protocol = "`, `".join(protocol) if isinstance(protocol, list) else protocol
            lines += [f"### `{suite}`: {content['source']['title']}, {about['table']}", ""]
            lines += [f"`zoo benchmark {suite} --out DIR`. Needs {about['needs']}. Protocol: `{protocol}`.", ""]
            lines += ["| published row | ours | remark |", "|---|---|---|"]
            lines += [
                f"| {r.name} | {_code(r.methods) or 'not in this suite'} | {r.remark} |" for r in rows(suite, plan)
            ]
            found = settings(suite, plan)
            lines += ["", "| method | setting | ours | stated | where | deviation |", "|---|---|---|---|---|---|"]
            for alike in _alike(found).values():
                one = alike[0]
                everyone = {one.method for one in alike} == {cell.method for cell in plan.cells}
                cells = (
                    "all" if everyone else _code(_folded(alike)),
                    f"`{one.key}`",
                    _shown(one.ours),
                    _shown(one.stated),
                    one.where,
                )
                lines.append(f"| {' | '.join(cells)} | {one.deviation} |")
            stated = {one.method for one in found}
            others = [one for one in dict.fromkeys(cell.method for cell in plan.cells) if one not in stated]
            if others:
                lines += [
                    "",
                    f"The paper states no settings of {_code(others)}: each runs with those of its own paper.",
                ]
            lines.append("")
    return "\n".join(lines).rstrip()


def _alike(found: list[Setting]) -> dict[Any, list[Setting]]:
    groups: dict[Any, list[Setting]] = {}
    for one in found:
        groups.setdefault((one.key, str(one.ours), str(one.stated), one.where, one.deviation), []).append(one)
    return groups


def _folded(alike: list[Setting]) -> list[str]:
    """Names of the methods; the folds of one setting, ``T1_fold0`` and so on, as one."""
    return list(dict.fromkeys(one.method.partition("_fold")[0] for one in alike))


def _code(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)
