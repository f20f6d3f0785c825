"""The measured figures that the documents show, by the name that a document gives.

Each is a function of the checked results (`results.Results`) and of the words that follow its name in the document, and
returns one line of text, a Markdown list or a Markdown table. `tables.py` describes how a document names one.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from typing import Any

import arms_table
import sequential_test
from action_latency import latency_table, loop_list
from bench import bench_table, starts_table
from collection_speed import collection_table
from controls import controls_table
from edge_cases import edge_cases_table
from evaluation_speed import speed_table
from frame_memory import frame_memory_table
from fusion import fusion_table
from judging_cost import judging_cost_table
from kills import kills_table
from lerobot_eval import eval_table, readback_table
from peers import peers_table
from results import RESULTS, Results, values
from scale import cost_table, estimate_table
from seed_statistics import errors_table, power_table
from shaken_holds import shaken_holds_table
from speedrun import speedrun_table
from text_encoders import cosine_table, understanding_table
from training_seeds import pooled_rate, training_seeds_table

from tests.attacks.__main__ import tables as attack_tables
from vla.errors import UserError
from vla.evaluation.episode import EpisodeResult
from vla.evaluation.language_tables import suite_tables
from vla.evaluation.perturbation_table import UNPERTURBED, perturbation_table
from vla.evaluation.statistics import rate, share
from vla.evaluation.tables import TABLE_4, instruction_table, report_rows
from vla.judging.thresholds import Thresholds
from vla.markdown import markdown_table
from vla.sim.perturbations import AXES
from vla.training.recipes import RECIPES, RecipeName

FAMILIAR_HEAD = ("pictures", "familiar pixels: least", "median", "strangeness: median", "most")


def figure(results: Results, words: str) -> str:
    """The figure that `words` name, such as 'rate shipped success'.

    Raises:
        UserError: there is no such figure, or its result is missing or stale.
    """
    name, *arguments = shlex.split(words)
    if name not in FIGURES:
        raise UserError(f"there is no figure {name!r}; see FIGURES in benchmarks/figures.py")
    try:
        return FIGURES[name](results, *arguments)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"the figure {words!r} cannot be made ({type(error).__name__}: {error}): its result file has no such "
            "value, or the layout of an older version; measure it again, or name another"
        ) from None


def episode_results(content: dict[str, Any]) -> list[EpisodeResult]:
    """The episodes of a `results.json`; the times of single steps are not in it."""
    episodes = [{name: value for name, value in each.items() if name != "video"} for each in content["episodes"]]
    return [EpisodeResult(**episode, inference_ms=[]) for episode in episodes]


def table_4(results: Results, name: str) -> str:
    """Table 4 of the report for an evaluation, and what was evaluated."""
    content = results[name]
    options, seeds = content["options"], [episode["seed"] for episode in content["episodes"]]
    *rows, (metric, reported, actual, _) = report_rows(episode_results(content))
    rows.append((metric, reported, actual, inference(results, name)))
    asked = f'"{options["instruction"]}", {content["split"]} seeds {seeds[0]}-{seeds[-1]}'
    return f"{markdown_table(TABLE_4, rows)}\n\n{asked}; weights: {content['weights']}."


def inference(results: Results, name: str) -> str:
    """Time from image to action: the median and the 95th percentile over all steps."""
    median, p95 = results[name]["timing"]["inference_ms_all_median_p95"]
    return f"{median:.0f} ms ({p95:.0f} ms)"


def success_rate(results: Results, name: str, event: str = "success") -> str:
    """How many episodes had `event`, a key of `table_4.rates` in results.json, with the exact 95% interval."""
    content = results[name]
    return rate(content["table_4"]["rates"][event]["count"], len(content["episodes"]))


def episode_count(results: Results, name: str, event: str = "success") -> str:
    """As `success_rate`, without the interval: '300/300'."""
    content = results[name]
    return f"{content['table_4']['rates'][event]['count']}/{len(content['episodes'])}"


def episode_sum(results: Results, name: str, key: str) -> str:
    """The sum of a number over an evaluation's episodes."""
    return f"{sum(episode[key] for episode in results[name]['episodes'])}"


def episode_most(results: Results, name: str, key: str) -> str:
    """The largest of a number over an evaluation's episodes."""
    return f"{max(episode[key] for episode in results[name]['episodes']):g}"


def mean_steps(results: Results, name: str) -> str:
    """Control steps of an episode, on average."""
    return f"{results[name]['table_4']['mean_steps']:.0f}"


def push_most(results: Results, name: str) -> str:
    """The largest movement that the push test caused."""
    return f"{1e3 * results[name]['push_test']['largest_m']:.1f} mm"


def perturbed(results: Results, name: str, cell: str) -> str:
    """Lifted of all episodes in a cell of `--perturb`: '16/30'."""
    found = results[name]["cells"][cell]
    return f"{found['lifted']}/{found['episodes']}"


def perturbed_rate(results: Results, name: str, cell: str) -> str:
    """As `perturbed`, with the exact 95% interval."""
    found = results[name]["cells"][cell]
    return rate(found["lifted"], found["episodes"])


def perturbed_levels(results: Results, name: str, *axes: str) -> str:
    """One row for each axis: what it changes, and the lifts at the three levels; '-' where none was measured."""
    cells = results[name]["cells"]
    rows = [
        (f"`{axis}`", AXES[axis].what, " / ".join(f"{size:g}" for size in AXES[axis].sizes), AXES[axis].unit)
        + tuple(
            perturbed(results, name, f"{axis}:{level}") if f"{axis}:{level}" in cells else "-" for level in (1, 2, 3)
        )
        for axis in axes
    ]
    head = ("axis", "what changes", "size at level 1 / 2 / 3", "unit", "lifted at 1", "at 2", "at 3")
    return markdown_table(head, rows)


def harmless_axes(results: Results, name: str, level: str) -> str:
    """How many axes cost no episode at a level, of all: '16 of the 21'."""
    cells = results[name]["cells"]
    harmless = [axis for axis in AXES if cells[f"{axis}:{level}"]["lifted"] >= cells[UNPERTURBED]["lifted"]]
    return f"{len(harmless)} of the {len(AXES)}"


def language_rate(
    results: Results, name: str, part: str, measure: str = "right", unit: str | None = None, shown: str = "rate"
) -> str:
    """How often something happened in a part of the language suite, with the exact 95% interval over seeds.

    `measure` and `unit` are keys of the part in language.json; the unit is "one_each" unless given, for a wrong object
    "any_of_seed". `shown` "count" leaves the interval out.
    """
    found = results[name]["parts"][part]["measures"][measure]
    counted = found[unit or ("any_of_seed" if measure == "wrong_object" else "one_each")]
    return (rate if shown == "rate" else share)(counted["count"], counted["of"])


def language_table(results: Results, name: str, heading: str) -> str:
    """One of the language suite's tables, by its heading in language.md."""
    head, *rows = suite_tables(results[name])[heading]
    return markdown_table(head, rows)


def attack_sum(results: Results, key: str) -> str:
    """A number over all attacks: 'runs', or how many lifts a judge accepted."""
    return f"{sum(attack[key] for attack in results['attacks']['attacks'].values()):,}"


def attack_count(results: Results) -> str:
    """The number of attacks."""
    return str(len(results["attacks"]["attacks"]))


def attack_starts(results: Results) -> str:
    """How many times each attack was tried."""
    return str(min(attack["runs"] for attack in results["attacks"]["attacks"].values()))


def honest_rate(results: Results) -> str:
    """Honest lifts of other cubes that the verdict accepted."""
    honest = results["attacks"]["honest"]
    return rate(honest["accepted"], honest["runs"])


def verdicts(_results: Results) -> str:
    """Which version of the verdict each result file was judged by, and on what CPU it was measured."""
    everything = Results()
    rows = []
    for path in sorted(RESULTS.glob("*.json")):
        content = everything[path.stem]
        versions = {str(thresholds["version"]) for thresholds in values(content, "thresholds")}
        cpus = {str(machine["cpu"]) for machine in values(content, "machine")}
        verdict = ", ".join(sorted(versions)) or "none: it measures no lift"
        rows.append((f"[{path.name}](results/{path.name})", verdict, ", ".join(sorted(cpus)) or "not recorded"))
    return markdown_table(("result file", "version of the verdict", "CPU"), rows)


def control(results: Results, name: str, key: str = "lifted") -> str:
    """A number of a control's episodes: '0/50'."""
    who = results["controls"]["who"][name]
    return f"{who[key]}/{who['episodes']}"


def limit(_results: Results, name: str, unit: str = "") -> str:
    """A threshold of the verdict; lengths and speeds in millimetres where the unit says so."""
    value = dataclasses.asdict(Thresholds())[name]
    return f"{1e3 * value if unit.startswith('mm') else value:g} {unit}".strip()


def recipes(_results: Results) -> str:
    """The numbers of the recipes for the scene lift beside each other."""
    names: tuple[RecipeName, ...] = ("cpu", "fast", "full")
    numbers = [_flat(dataclasses.asdict(RECIPES[name])) for name in names]
    rows = [
        (f"`{key}`", *(f"{each[key]:.3g}" for each in numbers))
        for key in numbers[0]
        if not isinstance(numbers[0][key], str)
    ]
    return markdown_table(("number", *(f"`{name}`" for name in names)), rows)


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def familiar(results: Results) -> str:
    """How familiar frames of the expert's episodes look beside those of demonstrations (make_examples.py)."""
    return markdown_table(FAMILIAR_HEAD, results["familiar"]["rows"])


def sequential_most(results: Results) -> str:
    """The largest share of runs between equally good policies that decided, within the largest budget."""
    content = results["sequential"]
    most = max(each["decided"] for row in content["errors"] for each in row["within"].values())
    return share(most, content["runs"])


def web_load(results: Results) -> str:
    """The page under load (web_load.py, which drives a browser and is imported only where it is shown)."""
    from web_load import load_table

    return load_table(results["web_load"])


FIGURES: dict[str, Callable[..., str]] = {
    "table_4": table_4,
    "inference": inference,
    "rate": success_rate,
    "count": episode_count,
    "sum": episode_sum,
    "most": episode_most,
    "mean_steps": mean_steps,
    "push_most": push_most,
    "instructions": lambda results: instruction_table(episode_results(results["instructions"])),
    "controls": lambda results: controls_table(results["controls"]),
    "control": control,
    "attacks": lambda results: attack_tables(results["attacks"]),
    "attack_count": attack_count,
    "attack_sum": attack_sum,
    "attack_starts": attack_starts,
    "honest_rate": honest_rate,
    "what_matters": lambda results: arms_table.arms_table(results["what_matters"]),
    "what_is_shown": lambda results: arms_table.shown(results["what_matters"]),
    "training_seeds": lambda results: training_seeds_table(results["training_seeds"], results["shipped"]),
    "training_seeds_rate": lambda results: pooled_rate(results["training_seeds"]),
    "seed_statistics": lambda results: errors_table(results["seed_statistics"]),
    "seed_power": lambda results: power_table(results["seed_statistics"]),
    "perturbations": lambda results, name: perturbation_table(results[name]["cells"]),
    "perturbed": perturbed,
    "perturbed_rate": perturbed_rate,
    "perturbed_levels": perturbed_levels,
    "harmless_axes": harmless_axes,
    "language_rate": language_rate,
    "fusion": lambda results: fusion_table(results["fusion"]),
    "language_table": language_table,
    "latency": lambda results: latency_table(results["action_latency"]),
    "collection_speed": lambda results: collection_table(results["collection_speed"]),
    "latency_loop": lambda results: loop_list(results["action_latency"]),
    "speed": lambda results: speed_table(results["evaluation_speed"]),
    "familiar": familiar,
    "peers": lambda results, *names: peers_table([results[name] for name in names], results["shipped"]),
    "edge_cases": lambda results: edge_cases_table(results["edge_cases"]),
    "edge_starts": lambda results: str(results["edge_cases"]["cases"]["zero"]["starts"]),
    "bench": lambda results: bench_table(results["bench"]),
    "bench_starts": lambda results: starts_table(results["bench"]),
    "speedrun": lambda results: speedrun_table(results["speedrun"]["records"]),
    "scale_costs": lambda results: cost_table(results["scale"]),
    "scale_estimate": lambda results: estimate_table(results["scale"]),
    "kills": lambda results: kills_table(results["kills"]),
    "frame_memory": lambda results: frame_memory_table(results["frame_memory"]),
    "judging_cost": lambda results: judging_cost_table(results["judging_cost"]),
    "text_cosines": lambda results: cosine_table(results["text_encoders"]),
    "text_understanding": lambda results: understanding_table(results["text_encoders"]),
    "lerobot_eval": lambda results: eval_table(results["lerobot"]),
    "lerobot_readback": lambda results: readback_table(results["lerobot"]),
    "firm": lambda results: shaken_holds_table(results["shaken_holds"]),
    "verdicts": verdicts,
    "sequential_errors": lambda results: sequential_test.errors_table(results["sequential"]),
    "sequential_most": sequential_most,
    "sequential_savings": lambda results: sequential_test.savings_table(results["sequential"]),
    "web_load": web_load,
    "limit": limit,
    "recipes": recipes,
}
