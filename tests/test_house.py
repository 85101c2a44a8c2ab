"""The house: few modules at the top, imports that point one way, short files."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "shapjax"
TOP = {"__init__", "__main__", "config", "model", "paths", "errors", "version"}
# Each may import those before it, and its own package. Those in one group do not import each other.
LAYERS = [["errors", "version"], ["paths"], ["config"], ["games"], ["attribution", "metrics", "models", "data"],
          ["training"], ["export"], ["pretrained"], ["evaluation"], ["report"], ["model"], ["cli"]]
DATA = {"shipped"}  # no code in it
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
ALSO = {("cli", "shapjax"), ("cli", "__init__")}  # the commands use the public names
MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(path):
    """Returns the package or top module that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path):
    """Returns the packages and top modules of shapjax that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] if "." in alias.name else "__init__"
                        for alias in node.names if alias.name.split(".")[0] == "shapjax")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "shapjax":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]


def test_nothing_else_stands_at_the_top():
    assert {path.stem for path in PACKAGE.glob("*.py")} == TOP
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages <= set(LEVEL) | DATA, packages - set(LEVEL)


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p) not in {"__init__", "__main__"} | DATA],
                         ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    own = part_of(path)
    for other in set(imported(path)) - {own}:
        if (own, other) not in ALSO:
            assert other in LEVEL and LEVEL[other] < LEVEL[own], f"{path} imports shapjax.{other}"


def test_no_file_is_longer_than_300_lines():
    files = [*MODULES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    long = {str(path): count for path in files if (count := len(path.read_text().splitlines())) > 300}
    assert not long


def test_no_modules_import_each_other_in_a_circle():
    names = {".".join(("shapjax", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
             for path in MODULES}
    graph = {}
    for name, path in names.items():
        found = set()
        for node in ast.parse(path.read_text()).body:  # imports inside functions run later
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("shapjax"):
                found |= {x if (x := f"{node.module}.{alias.name}") in names else node.module for alias in node.names}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names if alias.name in names}
        graph[name] = found - {name}
    while leaves := [name for name, needs in graph.items() if not needs]:
        graph = {name: needs - set(leaves) for name, needs in graph.items() if name not in leaves}
    assert not graph
