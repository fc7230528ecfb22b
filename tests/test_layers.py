"""The shape of the house: imports go down only, no code from files, chance is an argument."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("sed_core", "explorer", "pages", "benchmarks", "tests")
UI = {"streamlit", "plotly", "gradio"}

# Each module of sed_core may import those of its own line and of the lines above it.
FLOORS = (
    {"sparse", "schedules", "chance", "limits"},
    {"stream", "store"},
    {
        "gaussian",
        "nn",
        "heads",
        "count_law",
        "training",
        "strict",
        "files",
        "domains",
        "metrics",
        "inversion",
        "masks",
    },
    {"nested_head", "savae_networks", "remote", "weights", "unet", "thinning", "vocabulary"},
    {"savae", "diffusion", "births", "counts_networks", "imputation"},
    {"sed", "countsdiff"},
    {"baselines"},
    {"hub", "stages"},
    {"keep"},
    {"counts_recipes", "cell_sed", "cell_counts"},
    {"cell_training", "cell_imputation", "cell_peers"},
    {"cell_model"},
    {"evaluation", "recipes", "health", "costs", "count_files"},
    {"toy_evaluation", "count_evaluation", "imputation_evaluation", "imputation_table"},
    {"model_card", "comparison"},
    {"cell_draws", "cell_evaluation", "cell_tables"},
    {"commands"},
    {"cli"},
)
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}


def sources(*folders: str) -> list[Path]:
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(files) + ([ROOT / "app.py"] if (ROOT / "app.py").exists() else [])


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """Full dotted names of everything a file imports, at whatever depth."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_module_of_the_core_has_a_floor():
    names = {path.stem for path in (ROOT / "sed_core").iterdir() if path.suffix == ".py"}
    names |= {p.parent.name for p in (ROOT / "sed_core").glob("*/__init__.py")}
    assert names - {"__init__"} <= FLOOR.keys()


@pytest.mark.parametrize("path", sources("sed_core")[:-1], ids=short)
def test_core_imports_go_down_only(path: Path):
    parts = path.relative_to(ROOT / "sed_core").with_suffix("").parts
    if parts == ("__init__",):
        return
    for name in imports(path):
        assert name.split(".")[0] not in UI | {"explorer", "pages", "app"}, f"{name} is above"
        if not name.startswith("sed_core."):
            continue
        other = name.split(".")[1]
        if other in FLOOR:
            assert FLOOR[other] <= FLOOR[parts[0]], f"{short(path)} may not import {name}"


@pytest.mark.parametrize("folder", ["domains", "metrics"])
def test_domains_and_metrics_know_pairs_only(folder: str):
    for path in (ROOT / "sed_core" / folder).glob("*.py"):
        for name in imports(path):
            if name.startswith("sed_core."):
                allowed = {"sparse", "chance", folder}
                assert name.split(".")[1] in allowed, f"{short(path)} imports {name}"


@pytest.mark.parametrize("path", sources("explorer"), ids=short)
def test_figures_are_pure_and_explorer_knows_no_page(path: Path):
    for name in imports(path):
        assert name.split(".")[0] not in {"pages", "app"} or path.name == "app.py"
        if "figures" in path.relative_to(ROOT).parts:
            assert name.split(".")[0] not in {"streamlit", "gradio"}, f"{short(path)}: {name}"
            assert not name.startswith(("sed_core.sed", "sed_core.hub")), f"{short(path)}: {name}"


def test_app_is_a_frame():
    path = ROOT / "app.py"
    if path.exists():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 80
        assert not any(name.startswith("torch") for name in imports(path))


FORBIDDEN_MODULES = {"pickle", "joblib", "dill", "cloudpickle", "marshal", "shelve"}
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "os.system", "torch.load", "torch.save", "yaml.load",
    "torch.hub.load", "np.random.seed", "numpy.random.seed", "random.seed",
}  # fmt: skip


@pytest.mark.parametrize("path", sources(*OURS[:-1]), ids=short)
def test_nothing_runs_code_from_files(path: Path):
    for name in imports(path):
        assert name.split(".")[0] not in FORBIDDEN_MODULES, f"{short(path)} imports {name}"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            assert dotted(node.func) not in FORBIDDEN_CALLS, f"{short(path)}:{node.lineno}"
            for keyword in node.keywords:
                risky = keyword.arg in ("allow_pickle", "trust_remote_code", "shell")
                assert not (risky and ast.unparse(keyword.value) == "True"), f"{short(path)}"


DRAWS = {"rand", "randn", "randint", "randperm", "bernoulli", "multinomial", "normal", "poisson"}
LIKE = {"rand_like", "randn_like", "randint_like"}  # take no generator before torch 2.10
IN_PLACE = {"normal_", "uniform_", "bernoulli_", "exponential_", "random_", "geometric_"}


@pytest.mark.parametrize("path", sources("sed_core")[:-1], ids=short)
def test_chance_is_an_argument(path: Path):
    """Outside of building a module, no draw of the core touches the global generator."""
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Call):
            continue
        name, where = dotted(node.func), f"{short(path)}:{node.lineno}"
        last = name.rpartition(".")[2]
        given = any(keyword.arg == "generator" for keyword in node.keywords)
        drawn = name.startswith("torch.") and last in DRAWS | LIKE
        in_place = isinstance(node.func, ast.Attribute) and node.func.attr in IN_PLACE
        if drawn or in_place:
            assert given or _builds_module(path, node), f"{where}: {last} without generator="
        assert not name.startswith("torch.distributions"), f"{where}: takes no generator"
        if name in ("torch.manual_seed", "torch.random.manual_seed"):
            assert _restores_global_state(path), f"{where}: the global generator is not restored"


def _builds_module(path: Path, call: ast.Call) -> bool:
    """Whether a draw stands in an __init__, where torch initialises parameters."""
    inits = (
        node
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef) and node.name in ("__init__", "reset_parameters")
    )
    return any(init.lineno <= call.lineno <= (init.end_lineno or 0) for init in inits)


def _restores_global_state(path: Path) -> bool:
    text = path.read_text(encoding="utf-8")
    return "fork_rng(" in text or "set_rng_state(" in text


def test_annotations_of_the_core_stay_types():
    for path in sources("sed_core")[:-1]:
        assert "__future__.annotations" not in set(imports(path)), f"{short(path)}"


def tracked() -> list[Path]:
    """Text files of the tree, as git sees them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    binary = {".safetensors", ".png", ".gif", ".webp", ".woff2", ".ico", ".gz"}
    paths = [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]
    return [path for path in paths if path.is_file() and path.suffix not in binary]


def test_the_tree_names_no_index_and_no_machine():
    hosts = [
        "pypi" + ".org",
        "download." + "pytorch",
        "files." + "pythonhosted",
        "registry." + "npm",
    ]
    hosts += ["--index" + "-url", "--extra-index" + "-url", str(ROOT.parent) + "/"]
    for path in tracked():
        text = path.read_text(encoding="utf-8", errors="replace")
        for host in hosts:
            assert host not in text, f"{short(path)} names {host}"


def test_no_pickle_or_data_set_is_in_the_tree():
    bad = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".h5ad", ".npz", ".joblib"}
    for path in tracked():
        assert path.suffix not in bad, f"{short(path)} does not belong in the tree"
