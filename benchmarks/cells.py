"""What cells take in memory: training on every gene, sampling to disk, training from a file.

    python -m benchmarks.cells [train] [sample] [write] [backed] [--threads 1]

train    SED on PBMC3k's 13,714 genes: one epoch of each stage, batches of 64 cells, the checkpoint
sample   `sed-core sample CHECKPOINT -n N --out cells.h5ad` at two N: does memory grow with cells?
write    100,000 cells of 13,714 genes through the writer of that command, the sampling left out
backed   SED on a synthetic atlas of 200,000 cells x 20,000 genes that stays in its file, and on a
         small one: does memory grow with the file? The large one read into memory beside.

Every case runs in a process of its own, and its figure is the largest resident size of that process
(VmHWM), libraries included. The atlas and what `train` trained are kept in the folder of --scratch;
`sample` takes that model where --checkpoint names no other.

Writes benchmarks/results/cells.json and .md; a case that is run again replaces its line.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import nn

from benchmarks import atlas
from sed_core.cell_training import PLANS, train_cells
from sed_core.costs import apart, peak_memory, warm_up
from sed_core.domains import pbmc
from sed_core.domains.cell_files import CellFile
from sed_core.domains.cells import Cells, setup_anndata
from sed_core.evaluation import machine
from sed_core.keep import Plan

RESULTS = Path(__file__).parent / "results"
SCRATCH = Path("runs/cells")
BATCH = 64  # cells of a training batch
GB = 1e9
TRAINING_BOUND, SAMPLING_BOUND = 4 * GB, 1.5 * GB
GROWTH = 1.1  # of a peak, where memory is called constant
SAMPLED = (512, 2_048)
WRITTEN, EXPRESSED, CHUNK = 100_000, 850, 256
HELD = 0.1  # of the matrix that training from its file may take more than from a small file
SMALLER = 20  # times, the small atlas
SOME = {"draft": 60, "savae": 6, "latent": 20}  # steps on an atlas

Line = dict[str, Any]


# -- in a process of its own -----------------------------------------------------------------------


def watched(work: Callable[..., Line], *arguments: Any) -> Line:
    """What a piece of work tells of itself, the seconds it took, and the memory at its peak."""
    warm_up()
    before, started = peak_memory(), time.perf_counter()
    found = work(*arguments)
    seconds = round(time.perf_counter() - started, 1)
    return found | {"start_bytes": before, "peak_bytes": peak_memory(), "seconds": seconds}


def train_on_pbmc(folder: str, seed: int) -> Line:
    """One epoch of each stage, from the data to the checkpoint, batches of BATCH cells."""
    found = pbmc.parts()["train"]
    plan = _plan(dict.fromkeys(PLANS["sed"]["cpu"], -(-len(found) // BATCH)))
    told = _trained(found, pbmc.LABEL, plan, folder, seed)
    return told | {"longest": int(found.nnz.max())}


def _trained(cells: Cells, label: str, plan: Plan, folder: str, seed: int) -> Line:
    """Train SED as users do, and tell what it was trained on."""
    out = Path(folder)
    asked: Any = {"plan": plan, "out": out, "seed": seed, "device": "cpu"}
    for move in train_cells(cells, family="sed", label=label, **asked):
        assert move.total.isfinite()
    steps = {stage: size.steps for stage, size in plan.items()}
    return {"n": len(cells), "genes": cells.dim, "batch": BATCH, "steps": steps}


def _plan(steps: Mapping[str, int]) -> Plan:
    """The stages of SED with so many steps each, batches of cells of BATCH."""
    usual = PLANS["sed"]["cpu"]
    rows = {stage: size.rows if stage == "latent" else BATCH for stage, size in usual.items()}
    return {k: replace(usual[k], steps=steps[k], rows=rows[k]) for k in usual}


def sample_to_disk(ref: str, n: int, file: str, seed: int) -> Line:
    """The command itself; what it wrote is looked at by who asked, in another process."""
    from sed_core.cli import app

    asked = ["sample", ref, "-n", str(n), "--out", file, "--seed", str(seed), "--device", "cpu"]
    app(asked, standalone_mode=False)
    return {}


def _told(file: Path) -> Line:
    """Size of a file of cells and of what it holds."""
    made = setup_anndata(file, memory=False)
    each = made.nnz.double().mean().item()
    size = {"file_bytes": file.stat().st_size, "csr_bytes": int(made.nnz.sum()) * 8}
    return {"n": len(made), "genes": made.dim, "expressed": round(each, 1), **size}


def write_cells(n: int, genes: int, file: str, seed: int) -> Line:
    """Cells of a synthetic law through the writer, chunk by chunk, as `sample` hands them over."""
    law, names = atlas.law(genes, EXPRESSED / genes, seed), [f"G{k}" for k in range(genes)]
    stored = 0
    with CellFile(file, genes=names, recipe={"seed": seed}) as out:
        while out.cells < n:
            some, _ = atlas.block(law, out.cells, min(CHUNK, n - out.cells))
            out.append(some)
            stored += some.nnz
        out.finish()
    size = {"file_bytes": Path(file).stat().st_size, "csr_bytes": 8 * stored}
    return {"n": n, "genes": genes, "expressed": round(stored / n, 1), **size}


def train_from_file(file: str, memory: bool, folder: str, seed: int) -> Line:
    """Some steps of each stage on an atlas whose rows are read as they are needed."""
    cells = setup_anndata(file, label=atlas.LABEL, memory=memory)
    looked = peak_memory()
    return {
        **_trained(cells, atlas.LABEL, _plan(SOME), folder, seed),
        "held": memory,
        "looked_bytes": looked,
        "csr_bytes": int(cells.nnz.sum()) * 8,
        "dense_bytes": 4 * len(cells) * cells.dim,
    }


# -- cases -----------------------------------------------------------------------------------------


def training_lines(seed: int, show: Callable[[str], None], scratch: Path) -> list[Line]:
    """SED on the cells that we have."""
    show("train: one epoch of each stage of SED on PBMC3k")
    folder = scratch / f"train-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    found = apart(watched, train_on_pbmc, str(folder), seed)
    return [_line("train", f"SED on PBMC3k, batch {BATCH}", found)]


def sampling_lines(
    seed: int,
    show: Callable[[str], None],
    scratch: Path,
    *,
    ref: str = "",
    sizes: Sequence[int] = SAMPLED,
) -> list[Line]:
    """The command, at several numbers of cells."""
    lines, ref = list[Line](), ref or str(scratch / f"train-{seed}" / "checkpoint")
    with TemporaryDirectory(dir=scratch) as folder:
        for n in sizes:
            show(f"sample: {n:,} cells")
            file = str(Path(folder) / f"{n}.h5ad")
            found = apart(watched, sample_to_disk, ref, n, file, seed)
            found |= {"model": Path(ref).name, **_told(Path(file))}
            lines.append(_line("sample", f"sed-core sample, {n:,} cells", found))
    return lines


def writing_lines(
    seed: int, show: Callable[[str], None], scratch: Path, n: int = WRITTEN, genes: int = 13_714
) -> list[Line]:
    """The writer at full size, and at a tenth of it."""
    lines = list[Line]()
    with TemporaryDirectory(dir=scratch) as folder:
        for cells in (n // 10, n):
            show(f"write: {cells:,} cells")
            file = str(Path(folder) / f"{cells}.h5ad")
            found = apart(watched, write_cells, cells, genes, file, seed)
            lines.append(_line("write", f"{cells:,} cells through the writer", found))
    return lines


def backed_lines(
    seed: int,
    show: Callable[[str], None],
    scratch: Path,
    n: int = atlas.CELLS,
    genes: int = atlas.GENES,
) -> list[Line]:
    """The same training from a small file and from a large one, and with that one in memory."""
    lines, small = list[Line](), n // SMALLER
    for cells, memory in ((small, False), (n, False), (n, True)):
        file = scratch / f"atlas-{cells}x{genes}-{seed}.h5ad"
        if not file.exists():
            atlas.write_atlas(file, cells=cells, genes=genes, seed=seed, show=show)
        where = "in memory" if memory else "in their file"
        show(f"backed: {cells:,} cells {where}")
        with TemporaryDirectory(dir=scratch) as folder:
            found = apart(watched, train_from_file, str(file), memory, folder, seed)
        lines.append(_line("backed", f"SED on {cells:,} cells, {where}", found))
    return lines


def _line(case: str, name: str, found: Line) -> Line:
    return {"case": case, "name": name, **found}


# -- targets ---------------------------------------------------------------------------------------


def targets(lines: Sequence[Line]) -> list[Line]:
    """What was wanted of the cases that were run, what came, and whether that is enough."""
    by: dict[str, list[Line]] = {}
    for line in lines:
        by.setdefault(line["case"], []).append(line)
    found = [_below("training on every gene, batch 64", line, TRAINING_BOUND)
             for line in by.get("train", ())]  # fmt: skip
    for case in ("sample", "write"):
        grown = sorted(by.get(case, ()), key=lambda line: line["n"])
        found += [_below(line["name"], line, SAMPLING_BOUND) for line in grown[-1:]]
        found += [_constant(grown[0], grown[-1])] if len(grown) > 1 else []
    if "backed" in by:
        found += _never_held(by["backed"])
    return found


def _below(name: str, line: Line, bound: float) -> Line:
    peak = line["peak_bytes"]
    return {
        "name": f"{name}: peak",
        "wanted": f"under {bound / GB:g} GB",
        "got": f"{peak / GB:.2f} GB",
        "met": peak < bound,
    }


def _constant(few: Line, many: Line) -> Line:
    ratio = many["peak_bytes"] / few["peak_bytes"]
    return {
        "name": f"{many['name']}: peak over that of {few['n']:,} cells",
        "wanted": f"at most {GROWTH}",
        "got": f"{ratio:.3f}",
        "met": ratio <= GROWTH,
    }


def _never_held(lines: Sequence[Line]) -> list[Line]:
    """What the large file takes above the small one, as a share of its matrix."""
    filed = sorted((line for line in lines if not line["held"]), key=lambda line: line["n"])
    few, many = filed[0], filed[-1]
    held = next(line for line in lines if line["held"])
    matrix = many["csr_bytes"]

    def share(line: Line) -> float:
        return (line["peak_bytes"] - few["peak_bytes"]) / matrix

    name = f"{many['n']:,} cells over {few['n']:,}, of the {matrix / GB:.2f} GB of the matrix"
    return [
        {
            "name": f"{name}: in their file",
            "wanted": f"at most {HELD:.0%}",
            "got": f"{share(many):.1%}",
            "met": share(many) <= HELD,
        },
        {
            "name": f"{name}: in memory (the measure sees a matrix that is held)",
            "wanted": "at least 90%",
            "got": f"{share(held):.1%}",
            "met": share(held) >= 0.9,
        },
    ]


# -- report ----------------------------------------------------------------------------------------


def merged(old: Mapping[str, Any], new: Sequence[Line]) -> dict[str, Any]:
    """The report with lines of cases that were run again in place of their old ones."""
    again = {line["case"] for line in new}
    lines = [line for line in old.get("runs", ()) if line["case"] not in again] + list(new)
    lines.sort(key=lambda line: list(CASES).index(line["case"]))
    return {"format": "sed-cells-memory", "version": 1, "runs": lines, "targets": targets(lines)}


def markdown(found: Mapping[str, Any]) -> str:
    """The report for a reader."""
    rows = ["| | cells | genes | seconds | resident before (GB) | **peak (GB)** | matrix (GB) |"]
    rows += ["|---|---|---|---|---|---|---|"]
    for line in found["runs"]:
        matrix = f"{line['csr_bytes'] / GB:.2f}" if "csr_bytes" in line else ""
        sizes = [f"{line['n']:,}", f"{line['genes']:,}", f"{line['seconds']:.0f}"]
        peaks = [f"{line[key] / GB:.2f}" for key in ("start_bytes", "peak_bytes")]
        rows.append(f"| {' | '.join([line['name'], *sizes, *peaks, matrix])} |")
    rows += ["", "| target | wanted | got | met |", "|---|---|---|---|"]
    for t in found["targets"]:
        rows.append(f"| {t['name']} | {t['wanted']} | {t['got']} | {'yes' if t['met'] else 'no'} |")
    settings = {f"{line['device']}, seed {line['seed']}, {line['date']}" for line in found["runs"]}
    told = (
        f"`python -m benchmarks.cells`: {'; '.join(sorted(settings))}. Largest resident size of a "
        "process of its own (VmHWM), libraries included; matrix: its stored values and columns as "
        "CSR in memory (float32, int32). GB are 10^9 bytes."
    )
    return "\n".join(["# What cells take in memory", "", told, "", *rows, ""])


CASES: Mapping[str, Callable[..., list[Line]]] = {
    "train": training_lines,
    "sample": sampling_lines,
    "write": writing_lines,
    "backed": backed_lines,
}


def main(
    cases: Annotated[list[str] | None, typer.Argument(help="train, sample, write, backed.")] = None,
    sizes: Annotated[str, typer.Option(help="Numbers of cells to sample, such as 512,2048.")] = "",
    checkpoint: Annotated[str, typer.Option(help="What to sample.")] = "",
    seed: Annotated[int, typer.Option(help="Where chance starts.")] = 0,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 1,
    scratch: Annotated[Path, typer.Option(help="Folder of large files.")] = SCRATCH,
    out: Annotated[Path, typer.Option(help="Folder of the figures.")] = RESULTS,
) -> None:
    """Measure what cells take in memory."""
    torch.set_num_threads(threads)
    if unknown := set(cases or ()) - set(CASES):
        raise typer.BadParameter(f"cases are {', '.join(CASES)}, got {', '.join(unknown)}")
    scratch.mkdir(parents=True, exist_ok=True)
    told = {**machine(nn.Linear(1, 1)), "threads": threads, "seed": seed}
    numbers = [int(n) for n in sizes.split(",")] if sizes else SAMPLED
    more = {"sample": {"ref": checkpoint, "sizes": numbers}}
    lines, console = list[Line](), Console(stderr=True)
    with console.status("cells") as status:
        for case in cases or CASES:
            made = CASES[case](seed, status.update, scratch, **more.get(case, {}))
            lines += [line | told for line in made]
    file = out / "cells.json"
    old = json.loads(file.read_text()) if file.exists() else {}
    found = merged(old, lines)
    file.write_text(json.dumps(found, indent=1) + "\n")
    file.with_suffix(".md").write_text(markdown(found))
    print(markdown(found))


if __name__ == "__main__":
    typer.run(main)
