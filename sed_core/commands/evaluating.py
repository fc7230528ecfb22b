"""sed-core evaluate: which figures belong to a model, and where they are kept."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from sed_core.commands.sampling import makes_samples
from sed_core.commands.telling import (
    AsJson,
    Checkpoint,
    Device,
    Network,
    Seed,
    bar,
    left,
    tell,
)

if TYPE_CHECKING:
    from torch import nn

    from sed_core.metrics.judge import DigitJudge

TOY_PEERS = ("counts-toy", "gauss-toy", "masked-toy")  # told in one table


def evaluate(
    name: Checkpoint,
    samples: Annotated[
        int | None,
        typer.Option(help="How many samples to judge; as many as suit the model if left out."),
    ] = None,
    seed: Seed = 0,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance of the samples; 2, of cells 1.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Network evaluations; 50, of counts 100, of the toy 200.")
    ] = None,
    data: Annotated[
        Literal["mnist", "fashion_mnist", "ecal", "toy"] | None, typer.Option(help="Data set.")
    ] = None,
    judge: Annotated[str | None, typer.Option(help="Checkpoint that judges the samples.")] = None,
    trainings: Annotated[
        int | None,
        typer.Option(help="Of the toy: the shipped training and others made now; 3 if left out."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--save", help="Put the figures into the checkpoint.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            help="Other checkpoints, with commas: one table of all of them. Of cells also an h5ad "
            "of real cells to compare with."
        ),
    ] = None,
    outs: Annotated[
        list[Path] | None,
        typer.Option(
            "--out", help="Of cells or with --against: .json, .md or .csv; without an ending, all."
        ),
    ] = None,
    drawn: Annotated[
        Path | None,
        typer.Option("--keep", help="Of cells or with --against: folder of samples to go on from."),
    ] = None,
    costs: Annotated[
        bool, typer.Option(help="With --against: count and time what a sample costs.")
    ] = True,
    label: Annotated[
        str | None, typer.Option(help="Of cells: column of obs with their types; the model's.")
    ] = None,
    imputation: Annotated[
        bool, typer.Option(help="Of CountsDiff on PBMC3k: also what it fills in.")
    ] = True,
    device: Device = "auto",
    network: Network = False,
    as_json: AsJson = False,
) -> None:
    """Measure a model on real test data, every figure beside that of real against real.

    NAME may be an h5ad of made cells, to be compared --against an h5ad of real ones.
    """
    from sed_core import hub, limits
    from sed_core.commands import evaluating_cells as cells

    asked: dict[str, Any] = {"samples": samples, "seed": seed, "steps": steps}
    bounds = {"rows": samples or 1, "steps": steps or 1, "seed": seed}
    limits.LAPTOP.check(**bounds, guidance=2.0 if guidance is None else guidance)
    if cells.are_meant(name, network=network):
        asked |= {"guidance": 1.0 if guidance is None else guidance}
        place = {"device": device, "network": network}
        cells.evaluate(
            name, against, asked, label, place, outs=outs or [], drawn=drawn, keep=keep,
            imputation=imputation, as_json=as_json,
        )  # fmt: skip
        return
    guidance = 2.0 if guidance is None else guidance
    card = next((card for card in hub.shipped() if card.name == name), None)
    chosen: Any = data or (card.data if card else "mnist")
    model = hub.load(name, device=device, allow_network=network)
    place = {"device": device, "network": network}
    how = _how(model, chosen, against)
    if (outs or drawn) and how != "compared":
        raise ValueError("--out and --keep belong to a comparison; name its peers with --against")
    if how == "compared":
        asked = {"samples": samples or 2_000, "seed": seed, "guidance": guidance}
        asked |= {"steps": steps or 50, "costs": costs}
        refs = [name, *(ref.strip() for ref in (against or "").split(",") if ref.strip())]
        result = _compare(refs, chosen, asked, judge, outs or [], drawn, place, as_json)
        if keep:
            _keep_comparison(refs, chosen, result)
        return
    if how == "toy":
        asked = {"samples": samples or 4_000, "steps": steps or 200, "seed": seed}
        result = _evaluate_toy(name, model, asked, trainings, place)
    else:
        asked = {"samples": samples, "guidance": guidance, "steps": steps, "seed": seed}
        named = judge or (card.judge if card else f"judge-{chosen}")
        result = _evaluate_pictures(name, model, chosen, named, asked, place)
    if keep:
        for ref in TOY_PEERS if how == "toy" and name in TOY_PEERS else (name,):
            _keep(ref, chosen, result)
    tell(result, _table(result), as_json)


def _how(model: "nn.Module", data: str, against: str | None) -> str:
    """Whether a model has figures of its own, and of what kind, or is compared with others."""
    family = type(model).__name__
    if against is not None:
        return "compared"
    if data == "toy":
        return "toy"
    if family in ("DigitJudge", "CountsDiff"):
        return family
    return "SED" if family == "SED" and data != "ecal" else "compared"


def _table(result: Mapping[str, Any]) -> str:
    from sed_core.count_evaluation import counts_tables
    from sed_core.evaluation import table
    from sed_core.toy_evaluation import toy_table

    if "toy" in result:
        return toy_table(result)
    return f"{table(result)}\n\n{counts_tables(result)}" if "levels" in result else table(result)


def _evaluate_pictures(
    name: str,
    model: "nn.Module",
    data: str,
    judge: str,
    asked: Mapping[str, Any],
    place: Mapping[str, Any],
) -> dict[str, Any]:
    """Figures of a judge, of a SED, or of a CountsDiff."""
    from sed_core import evaluation, hub
    from sed_core.count_evaluation import evaluate_counts
    from sed_core.domains import digits

    test = digits.load(data, "test", allow_network=place["network"])
    family = type(model).__name__
    if family == "DigitJudge":
        least = evaluation.JUDGE_TARGETS.get(data)
        found = cast("DigitJudge", model)
        return evaluation.evaluate_judge(found, test, least=least, seed=asked["seed"])
    judging: Any = hub.load(judge, device=place["device"], allow_network=place["network"])
    train = digits.load(data, "train", allow_network=place["network"])
    measure: Any = evaluation.evaluate_digits if family == "SED" else evaluate_counts
    chosen = {key: value for key, value in asked.items() if value is not None}
    started = time.monotonic()
    with bar() as show:

        def progress(share: float) -> None:
            show("evaluating", share, left(started, share))

        return measure(
            makes_samples(model, name),
            judging,
            train,
            test,
            **chosen,
            progress=progress,
        )


# -- the toy ---------------------------------------------------------------------------------------


def _evaluate_toy(
    name: str,
    model: "nn.Module",
    asked: Mapping[str, Any],
    trainings: int | None,
    place: Mapping[str, Any],
) -> dict[str, Any]:
    """The shipped model and its peers beside the exact law, each also trained again."""
    from sed_core import hub
    from sed_core.toy_evaluation import evaluate_toy, method_of

    method_of(model)  # refuses models of other rows before any training
    shipped = name in TOY_PEERS
    if not shipped and trainings not in (None, 1):
        raise ValueError(f"--trainings is for {', '.join(TOY_PEERS)}; train {name!r} again by hand")
    found, seconds = [(name, model)], dict[str, list[float]]()
    with bar() as show, TemporaryDirectory() as folder:
        for peer in TOY_PEERS if shipped else ():
            one = hub.load(peer, device=place["device"])
            found += [] if peer == name else [(peer, one)]
            took = seconds.setdefault(
                method_of(one), [_training_seconds(hub.figures(own_folder(peer)))]
            )
            for seed in range(1, 3 if trainings is None else trainings):
                again, clock = _trained_again(peer, seed, Path(folder), place["device"], show)
                found.append((f"{peer}, seed {seed}", again))
                took.append(clock)
        return evaluate_toy(
            found,
            **asked,
            training_seconds=seconds,
            tell=lambda words: show("sampling", 0.9, words),
        )


def _trained_again(
    name: str, seed: int, folder: Path, device: str, show: Callable[[str, float, str], None]
) -> tuple["nn.Module", float]:
    """The recipe of that name with another seed, and the seconds it took."""
    from sed_core import hub, recipes

    out, started = folder / f"{name}-{seed}", time.monotonic()
    for step in recipes.train(name, out=out, seed=seed, device=device):
        show(f"training {name}, seed {seed}", step.step / step.steps, "")
    return hub.load(str(out / "checkpoint"), device=device), time.monotonic() - started


def _training_seconds(metrics: Mapping[str, Any]) -> float:
    return sum(stage["seconds"] for stage in metrics["training"]["stages"].values())


# -- comparisons -----------------------------------------------------------------------------------


def _compare(
    refs: list[str],
    data: Any,
    asked: Mapping[str, Any],
    judge: str | None,
    outs: list[Path],
    drawn: Path | None,
    place: Mapping[str, Any],
    as_json: bool,
) -> dict[str, Any]:
    """One table of all methods, told and written."""
    from sed_core import comparison

    comparison.files_of(outs)  # refuses a bad ending before any work
    started = time.monotonic()
    with bar() as show:
        result = comparison.compare(
            refs,
            comparison.aim_at(data, judge=judge, **place),
            plan=comparison.Plan(**asked),
            keep=drawn,
            progress=lambda share, words: show(words, share, left(started, share)),
            **place,
        )
    comparison.write_table(result, outs)
    tell(result, comparison.markdown(result), as_json)
    return result


def _keep_comparison(refs: list[str], data: str, result: Mapping[str, Any]) -> None:
    """Put each checkpoint's rows into its metrics.json, and its card where it has no other."""
    from sed_core import hub, model_card

    for ref in refs:
        folder = own_folder(ref)
        metrics = hub.figures(folder) | {"comparison": model_card.of_checkpoint(result, ref)}
        title = ref if folder.name == ref else f"{folder.parent.name}"
        alone = "figures" in metrics
        card = (model_card.sed_card if alone else model_card.compared_card)(title, data, metrics)
        hub.revise(folder, metrics=metrics, card=card)


def own_folder(ref: str) -> Path:
    """The folder of a checkpoint that may be written to."""
    from sed_core import hub

    source = hub.resolve(ref)
    if source.commit:
        raise ValueError(f"{ref} lies in the Hub's cache; copy its folder to keep figures in it")
    return source.folder


def _keep(name: str, data: str, result: Mapping[str, Any]) -> None:
    """Put figures into metrics.json, leave what else stands there, and write the card anew."""
    from sed_core import evaluation, hub, model_card

    folder = own_folder(name)
    metrics = {**hub.figures(folder), **result}
    title = folder.name if folder.name != "checkpoint" else folder.parent.name
    if "toy" in result:
        card = model_card.toy_card(title, name, metrics)
    elif "levels" in result:
        card = model_card.counts_card(title, data, metrics)
    elif "judge_worst" in result["figures"]:
        card = evaluation.judge_card(metrics, data)
    else:
        card = model_card.sed_card(title, data, metrics)
    hub.revise(folder, metrics=metrics, card=card)
