"""sed-core evaluate, of cells: checkpoints, or a file of made cells, on PBMC3k or another file."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sed_core.commands.telling import bar, left, tell

if TYPE_CHECKING:
    from sed_core.cell_draws import Real

Show = Callable[[str, float, str], None]
FILE = ".h5ad"
USUAL = "cell_type"  # the column of obs with types, where nothing else is said


def are_meant(name: str, *, network: bool) -> bool:
    """Whether a name is that of cells: a file of them, or a checkpoint that names its genes."""
    from sed_core import hub

    return name.endswith(FILE) or hub.vocabulary(name, allow_network=network) is not None


def evaluate(
    name: str,
    against: str | None,
    asked: Mapping[str, Any],
    label: str | None,
    place: Mapping[str, Any],
    *,
    outs: list[Path],
    drawn: Path | None,
    keep: bool,
    imputation: bool,
    as_json: bool,
) -> None:
    """One table of a model of cells and those it is compared with, told and written.

    Args:
        against: checkpoints, and at most one h5ad file of real cells, with commas.
        label: column of obs with the types of cells; the model's if left out.
        keep: put figures and cards into the checkpoints.
    """
    from sed_core.cell_draws import Plan
    from sed_core.cell_evaluation import evaluate_cells
    from sed_core.cell_tables import cells_markdown, write_cells
    from sed_core.comparison import files_of

    files_of(outs)  # refuses a bad ending before any work
    named = [ref for ref in (part.strip() for part in (against or "").split(",")) if ref]
    refs = [name, *(ref for ref in named if not ref.endswith(FILE))]
    file = _real_file(name, named)
    if keep and file is not None:
        raise ValueError("--save keeps figures on the shipped cells; leave it out with a file")
    real = _real(file, refs, label, asked["seed"], place["network"])
    with bar() as show:
        result = evaluate_cells(
            refs, real, plan=Plan(**asked), keep=drawn, progress=_teller(show), **place
        )
        if imputation and file is None:
            result |= _imputed(refs, real, asked["seed"], place, show)
    write_cells(result, outs)
    if keep:
        _keep(refs, result)
    tell(result, cells_markdown(result), as_json)


def _teller(show: Show) -> Callable[[float, str], None]:
    """Progress with the time that is left."""
    started = time.monotonic()
    return lambda share, words: show(words, share, left(started, share))


def _imputed(
    refs: list[str], real: "Real", seed: int, place: Mapping[str, Any], show: Show
) -> dict[str, Any]:
    """What the first CountsDiff among them fills in, beside its peers; nothing without one."""
    from sed_core import hub
    from sed_core.countsdiff import CountsDiff
    from sed_core.imputation_evaluation import (
        cell_masked,
        evaluate_imputation,
        train_cell_masked,
    )

    for ref in refs:
        model = None if ref.endswith(FILE) else hub.load(ref, device=place["device"])
        genes = None if model is None else hub.vocabulary(ref)
        if isinstance(model, CountsDiff) and genes is not None and real.label is not None:
            break
    else:
        return {}
    parts = {"train": real.train, "test": real.test}
    parts = {name: part.with_genes(genes.genes) for name, part in parts.items()}
    masked, tell = cell_masked(parts["train"], label=real.label, seed=seed), _teller(show)
    for one in train_cell_masked(masked, parts["train"], label=real.label, seed=seed):
        tell(one.step / one.steps, "training the masked peer")
    options: dict[str, Any] = {"label": real.label, "seed": seed, "masked": masked}
    show_part, words = _teller(show), f"imputing with {ref}"
    found = evaluate_imputation(
        model, parts, progress=lambda share: show_part(share, words), **options
    )
    return {"imputation": {"checkpoint": ref, **found}}


def _real_file(name: str, named: list[str]) -> Path | None:
    """The file with real cells, if one is named."""
    files = [Path(ref) for ref in named if ref.endswith(FILE)]
    if len(files) > 1 or (name.endswith(FILE) and not files):
        raise ValueError(
            f"cells are compared with one file of real ones, got {len(files)}; name it with "
            "--against real.h5ad"
        )
    return files[0] if files else None


def _real(
    file: Path | None, refs: list[str], label: str | None, seed: int, network: bool
) -> "Real":
    """PBMC3k, or the cells of a file with the types that all sides have."""
    from sed_core import hub
    from sed_core.cell_draws import file_real, has_label, pbmc_real

    if file is None:
        if label is not None:
            raise ValueError("--label names a column of your file; give one with --against")
        return pbmc_real()
    made = [Path(ref) for ref in refs if ref.endswith(FILE)]
    models = [hub.vocabulary(ref, allow_network=network) for ref in refs if not ref.endswith(FILE)]
    usual = next((own.label for own in models if own and own.label), USUAL)
    if label is None and not all(has_label(path, usual) for path in (file, *made)):
        return file_real(file, seed=seed)
    return file_real(file, label=label or usual, seed=seed)


def _keep(refs: list[str], result: Mapping[str, Any]) -> None:
    """Put each checkpoint's rows into its metrics.json, and write its card anew."""
    from sed_core import hub
    from sed_core.cell_evaluation import of_checkpoint
    from sed_core.cell_tables import cells_card
    from sed_core.commands.evaluating import own_folder

    for ref in refs:
        folder = own_folder(ref)
        metrics = {**hub.figures(folder), **of_checkpoint(result, ref)}
        title = folder.name if folder.name != "checkpoint" else folder.parent.name
        hub.revise(folder, metrics=metrics, card=cells_card(title, metrics))
