"""Who may import whom: rooms stand in floors, and an import goes down, never up or round."""

import ast

from conftest import ROOMS, ROOT, SOURCES

CORE = {
    "arguments",
    "parsers",
    "networks",
    "self_attention",
    "losses",
    "dataset",
    "translation_model",
    "cyclegan_model",
}
COMMANDS = {path.stem for path in ROOT.glob("*.py")} - CORE
FLOORS = [
    {"common"},
    {"storage"},
    {"pictures"},
    CORE,
    {"demo"},
    {"dtn"},
    {"interop"},
    {"evaluation"},
    {"viewer"},
    {"training"},
    COMMANDS,
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
MATHEMATICS = [
    "networks.py",
    "self_attention.py",
    "losses.py",
    "dtn/networks.py",
    "dtn/losses.py",
    "evaluation/metrics.py",
]


def imports_of(path):
    """The modules that a file imports when it runs, ours and others', in full."""
    tree = ast.parse(path.read_text("utf-8"))
    for block in [node for node in ast.walk(tree) if isinstance(node, ast.If)]:
        if ast.unparse(block.test) == "TYPE_CHECKING":
            block.body = [ast.Pass()]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            if node.module in ROOMS:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path):
    return path.parent.name if path.parent != ROOT else path.stem


def test_every_room_and_every_file_of_the_root_has_its_floor():
    assert set(FLOOR) == {*ROOMS, *CORE, *COMMANDS}
    assert len(list(ROOT.glob("*.py"))) <= 17


def test_no_import_goes_up_and_commands_import_no_command():
    for path in SOURCES:
        for module in imports_of(path):
            name, own = module.partition(".")[0], name_of(path)
            if name not in FLOOR or name == own:
                continue
            if own in ("arguments", "parsers") and module in ("dtn", "dtn.options"):
                continue  # the one exception: DTN brings its own options
            inside_core = {name, own} <= CORE
            assert FLOOR[name] < FLOOR[own] or inside_core, (path.relative_to(ROOT), module)


def test_modules_import_each_other_in_no_circle():
    modules = {str(path.relative_to(ROOT))[:-3].replace("/", "."): path for path in SOURCES}
    arrows = {name: set(imports_of(path)) & set(modules) for name, path in modules.items()}
    while arrows:
        free = [name for name, others in arrows.items() if not others & set(arrows)]
        assert free, sorted(arrows)
        for name in free:
            del arrows[name]


def test_models_do_not_import_arguments_and_mathematics_opens_no_file():
    for path in SOURCES:
        if path.name.endswith("model.py"):
            assert "arguments" not in set(imports_of(path)), path.name
    for name in MATHEMATICS:
        ours = {module.partition(".")[0] for module in imports_of(ROOT / name)} & set(FLOOR)
        assert ours <= {"common", "self_attention", "networks"}, (name, ours)
        assert "open(" not in (ROOT / name).read_text("utf-8")


def test_no_module_is_long():
    long = {
        str(p.relative_to(ROOT)): n
        for p in SOURCES
        if (n := len(p.read_text("utf-8").splitlines())) > 400
    }
    assert not long, long
