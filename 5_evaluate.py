"""Evaluate a policy in closed loop (report sec. 5).

Reads a checkpoint, or drives a control policy. Writes `results.json`, its tables (`results.md`), a page with every
episode (`report.html`), a row for each (`episodes.csv`), their states (`episodes.hdf5`) and a video of each into the
output directory. The seeds are fixed beforehand, and test seeds are never used for training or validation. Every
episode that began counts; with --until-decided, every episode up to the pair that decided.

A run that was stopped loses no finished episode: the same command continues. Older results in the output directory stay
until the new ones are whole. Exit code 3 means that the machine failed (a full disk or GPU, say), not the policy; exit
code 1 after --rejudge, that the second judge disagrees on an episode.

    python 5_evaluate.py --checkpoint checkpoints/best_model.pth --num-episodes 10
    python 5_evaluate.py --policy random --num-episodes 50
    python 5_evaluate.py --compare checkpoints/best_model.pth checkpoints/lift.pth --num-episodes 100
    python 5_evaluate.py --compare checkpoints/best_model.pth checkpoints/lift.pth --num-episodes 200 --until-decided
    python 5_evaluate.py --perturb all --num-episodes 30
    python 5_evaluate.py --rejudge videos/episodes.hdf5
"""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vla.errors import UserError, run_script
from vla.evaluation.evaluate import evaluate
from vla.evaluation.paired import compare_policies
from vla.evaluation.perturb import evaluate_perturbed
from vla.evaluation.plan import EvaluationPlan, InferenceMode, Subject, checkpoint_subject, control_subject
from vla.evaluation.rejudge import print_second_opinions
from vla.evaluation.sequential import FEWEST_PAIRS
from vla.files import default_checkpoint
from vla.policies.actor import ControlConfig
from vla.policies.instructions import INSTRUCTIONS
from vla.sim.config import TEST_SEEDS, VALIDATION_SEEDS
from vla.sim.perturbations import parse_perturbations

EXIT_JUDGES_DISAGREE = 1
SEEDS = {"validation": VALIDATION_SEEDS, "test": TEST_SEEDS}


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of the evaluation."""

    checkpoint: Path = field(default_factory=default_checkpoint)
    """Checkpoint to evaluate; without one of your own, the shipped checkpoints/lift.pth."""
    policy: Literal["checkpoint", "zero", "random", "always-close", "nan", "expert"] = "checkpoint"
    """Who acts: the checkpoint, or a control: no motion, uniform noise, a closing gripper, actions that are not
    numbers, or the scripted expert, which sees the simulator's state."""
    compare: tuple[Path, Path] | None = None
    """Two checkpoints to evaluate on the same seeds instead, with an exact McNemar test."""
    until_decided: bool = False
    """Run the pairs of --compare only until a sequential test decides; --num-episodes is then the most that are run."""
    perturb: str | None = None
    """Perturbations to evaluate under instead: AXIS, AXIS:LEVEL (1-3) or all; the same seeds also run unperturbed."""
    rejudge: Path | None = None
    """An evaluation's episodes.hdf5 to be judged again by the second judge instead; no policy is run, the simulator
    repeats each episode."""
    num_episodes: int = 10
    """Episodes to run."""
    instruction: str = "Pick up the cube"
    """Instruction for the policy."""
    every_instruction: bool = False
    """Run that many episodes with each of the eight training instructions instead, each with seeds of its own, and
    report each."""
    blind: bool = False
    """Show the policy black images, as a control: it should lift nothing."""
    push_test: bool = False
    """After a success, push the held cube with ten times its weight, six ways, on a copy of the state."""
    max_steps: int = 200
    """Control steps (20 per second) after which an episode has failed."""
    split: Literal["test", "validation"] = "test"
    """Which seeds: test, for what is reported; validation, for choosing between checkpoints, as training does."""
    seed: int | None = None
    """Seed of the first episode, the next ones follow; None: the split's first."""
    workers: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))
    """Simulator processes."""
    inference: InferenceMode = "auto"
    """Who computes: each worker on one CPU thread, or one copy of the policy that answers all workers in batches;
    auto: shared on a GPU."""
    output_dir: Path = Path("videos")
    """Folder for the results."""
    execute_steps: int = 1
    """Actions executed of each predicted chunk (the report: the first only)."""
    ensemble_decay: float | None = None
    """Temporal ensembling: weights exp(-decay i), i-th oldest first; None: off."""
    videos: bool = True
    """Write eval_trial_N.mp4."""
    clip_weights: str = "openai"
    """Text tower for instructions outside the training set: open_clip tag or local file."""

    def __post_init__(self) -> None:
        for name in ("num_episodes", "max_steps", "workers"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if not self.instruction.strip():
            raise UserError('--instruction is empty; say what to do, such as "Pick up the cube"')
        first, last = self.plan().seeds()
        allowed = SEEDS[self.split]
        if first not in allowed or last not in allowed:
            raise UserError(
                f"--seed {first}: --split {self.split} has the seeds {allowed.start}-{allowed.stop - 1}, and these "
                f"episodes would have {first}-{last}; seeds that chose a checkpoint must not test it"
            )
        if self.policy != "checkpoint" and (self.blind or self.compare is not None):
            raise UserError(
                f"--policy {self.policy} sees no image and is no checkpoint; leave --blind and --compare out"
            )
        modes = [f"--{name}" for name in ("compare", "perturb", "rejudge") if getattr(self, name) is not None]
        if len(modes) > 1:
            raise UserError(f"{' and '.join(modes)} were given together; give one of them at a time")
        if self.perturb is not None:
            parse_perturbations(self.perturb)
        if self.until_decided:
            self._check_until_decided()

    def _check_until_decided(self) -> None:
        if self.compare is None:
            raise UserError("--until-decided compares two policies, and none were given; add --compare A.pth B.pth")
        if self.every_instruction:
            raise UserError(
                "--until-decided and --every-instruction were given together: the comparison could end before it has "
                "seen every instruction; leave one of them out"
            )
        if self.num_episodes < FEWEST_PAIRS:
            raise UserError(
                f"--num-episodes {self.num_episodes}: --until-decided cannot decide with fewer than {FEWEST_PAIRS} "
                "pairs; give the most that you would run, such as --num-episodes 200"
            )

    def plan(self) -> EvaluationPlan:
        """The episodes that these options ask for, and how they are run."""
        first_seed = SEEDS[self.split].start if self.seed is None else self.seed
        return EvaluationPlan(
            instructions=INSTRUCTIONS if self.every_instruction else (self.instruction,),
            num_episodes=self.num_episodes,
            split=self.split,
            first_seed=first_seed,
            max_steps=self.max_steps,
            control=ControlConfig(self.execute_steps, self.ensemble_decay),
            blind=self.blind,
            push_test=self.push_test,
            videos=self.videos,
            workers=self.workers,
            inference=self.inference,
            options=dataclasses.asdict(self) | {"seed": first_seed},
        )

    def subject(self, checkpoint: Path) -> Subject:
        """Who acts: the policy of `checkpoint`, or a control."""
        plan = self.plan()
        if self.policy != "checkpoint":
            return control_subject(self.policy, plan.instructions)
        return checkpoint_subject(checkpoint, plan.instructions, plan.control, self.clip_weights)


def main(options: EvaluateOptions) -> None:
    if options.rejudge is not None:
        if not print_second_opinions(options.rejudge):
            sys.exit(EXIT_JUDGES_DISAGREE)
    elif options.compare is not None:
        first, second = (options.subject(path) for path in options.compare)
        compare_policies(options.plan(), first, second, options.output_dir, options.until_decided)
    elif options.perturb is not None:
        perturbations = parse_perturbations(options.perturb)
        evaluate_perturbed(options.plan(), options.subject(options.checkpoint), perturbations, options.output_dir)
    else:
        evaluate(options.plan(), options.subject(options.checkpoint), options.output_dir)


if __name__ == "__main__":
    run_script(main, EvaluateOptions, __doc__, "run the same command again; it continues where it stopped")
