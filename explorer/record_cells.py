"""Record what the page Cells shows before anything is made there: a reference, and made cells.

python -m explorer.record_cells --out assets/cells

The reference holds statistics of PBMC3k's training cells, no matrix of counts; it needs SED_DATA.
Cells are made of every checkpoint of cells that is there.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from explorer import cell_exports, cell_models, cell_places, cell_reference, cell_runs, cell_state
from explorer.cell_params import DEFAULTS, MODELS, Params
from explorer.cell_reference import Reference
from sed_core.domains import pbmc

NAME = "{n:,} training cells of PBMC3k"
RECORDED = replace(DEFAULTS, n=500)


def record(
    out: Annotated[Path, typer.Option(help="folder")] = cell_state.RECORDED,
    only: Annotated[str, typer.Option(help="reference, sed or counts; all if left out")] = "",
    n: Annotated[int, typer.Option(help="cells of each model")] = RECORDED.n,
    steps: Annotated[int, typer.Option(help="of every sampler")] = RECORDED.steps,
) -> None:
    """Record the reference, and cells of each family whose checkpoint is there."""
    out.mkdir(parents=True, exist_ok=True)
    if only in ("", "reference"):
        _write(out / cell_state.REFERENCE, cell_reference.pack(with_layout(of_pbmc())))
    found = cell_reference.read(out / cell_state.REFERENCE)
    for family in MODELS:
        if only in ("", family) and cell_models.sha(family):
            params = replace(RECORDED, family=family, n=n, steps=steps)
            _write(out / f"{family}.safetensors.gz", made(family, params, found))


def of_pbmc() -> Reference:
    """The statistics of the training cells on the small panel, without a layout."""
    parts = pbmc.panel_parts()
    label = parts["train"].labels[pbmc.LABEL]
    train: Any = parts["train"].csr()
    return cell_reference.reference(
        train, parts["train"].genes, name=NAME.format(n=train.shape[0]),
        types=label.names, kind=label.numbers.tolist(), held=parts["test"].csr(),
    )  # fmt: skip


def with_layout(found: Reference) -> Reference:
    """The same with a UMAP of its cells, of the coordinates as they are stored."""
    return replace(found, layout=cell_places.layout(found.pcs))


def made(family: str, params: Params, found: Reference) -> bytes:
    """Cells of one family as they are recorded: on the panel, placed by UMAP."""
    quiet = lambda share: None  # noqa: E731
    model, sha = cell_models.load(family), cell_models.sha(family)
    cells = cell_runs.draw(model, params, found, quiet, family=family, sha=sha)
    return cell_exports.tape(cell_runs.placed(cells, found, quiet))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    typer.echo(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    typer.run(record)
