"""Evaluate a policy in closed loop (report sec. 5).

Reads a checkpoint, or drives a control policy. Writes `results.json`, its tables (`results.md`), a page with every
episode (`report.html`), a row for each (`episodes.csv`), their states (`episodes.hdf5`) and a video of each into the
output directory. The seeds are fixed beforehand, and test seeds are never used for training or validation. Every
episode that began counts; with --until-decided, every episode up to the pair that decided.

A policy of the scene cubes is told something else in each episode, which fits what lies on the table; seeds whose
scenes do not fit a given --instruction are passed over. --language-suite measures what its words decide
(docs/language.md), and writes `language.json`, its tables, its heat map and `language.html`.

A run that was stopped loses no finished episode: the same command continues. Older results in the output directory stay
until the new ones are whole. Exit code 3 means that the machine failed (a full disk or GPU, say), not the policy; exit
code 1 after --rejudge, that the second judge disagrees on an episode.

    python 5_evaluate.py --checkpoint checkpoints/best_model.pth --num-episodes 10
    python 5_evaluate.py --policy random --num-episodes 50
    python 5_evaluate.py --compare checkpoints/best_model.pth checkpoints/lift.pth --num-episodes 100
    python 5_evaluate.py --compare checkpoints/best_model.pth checkpoints/lift.pth --num-episodes 200 --until-decided
    python 5_evaluate.py --perturb all --num-episodes 30
    python 5_evaluate.py --checkpoint checkpoints/language/best_model.pth --cubes 2 --instruction "Lift the green cube"
    python 5_evaluate.py --checkpoint checkpoints/language/best_model.pth --language-suite --output-dir runs/language
    python 5_evaluate.py --rejudge videos/episodes.hdf5
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vla.errors import UserError, run_script
from vla.evaluation.asked_episodes import AskedEpisode, cubes_episodes, lift_episodes
from vla.evaluation.evaluate import evaluate
from vla.evaluation.language_parts import LARGEST, PARTS, part_cases
from vla.evaluation.language_suite import evaluate_language
from vla.evaluation.paired import check_same_simulator, compare_policies
from vla.evaluation.perturb import evaluate_perturbed, perturbations_for
from vla.evaluation.plan import EvaluationPlan, InferenceMode, Subject, checkpoint_subject, control_subject
from vla.evaluation.rejudge import print_second_opinions
from vla.evaluation.scenes import evaluated_env
from vla.evaluation.sequential import FEWEST_PAIRS
from vla.files import default_checkpoint
from vla.policies.execution import ControlConfig, Precision
from vla.policies.hub import local_checkpoint
from vla.policies.instructions import INSTRUCTIONS
from vla.shards import Shard
from vla.sim.config import TEST_SEEDS, VALIDATION_SEEDS, EnvConfig, SceneKind
from vla.sim.engines import Engine, default_workers
from vla.sim.perturbations import parse_perturbations

DEFAULT_INSTRUCTION = INSTRUCTIONS[0]
DEFAULT_EPISODES = 10
MOST_CHARACTERS = 1000
"""Longest instruction."""
EXIT_JUDGES_DISAGREE = 1
SEEDS = {"validation": VALIDATION_SEEDS, "test": TEST_SEEDS}


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of the evaluation."""

    checkpoint: Path | None = None
    """Checkpoint to evaluate, or hf://USER/NAME of one on the Hugging Face Hub; by default your own,
    checkpoints/best_model.pth, else the shipped checkpoints/lift.pth. With --language-suite or --scene cubes:
    checkpoints/language/best_model.pth, else checkpoints/language.pth."""
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
    language_suite: bool = False
    """Measure instead what the words of an instruction decide, with a policy of the scene cubes: the same start under
    several instructions, held-out words, blank ones, and others (docs/language.md)."""
    parts: tuple[str, ...] | None = None
    """Parts of --language-suite, such as two-cubes; None: all."""
    num_episodes: int | None = None
    """Episodes to run, 10 unless given. With --language-suite: seeds of its largest part, the other parts have fewer in
    proportion; 200 unless given."""
    scene: SceneKind | None = None
    """What lies on the table: lift, one red cube; cubes, two to four of different colours. None: the checkpoint's own
    scene, which must be the same; for a control, lift."""
    cubes: tuple[int, ...] | None = None
    """Numbers of cubes in the scene cubes, equally likely; None: the checkpoint's."""
    same_colour_share: float | None = None
    """Share of the episodes of the scene cubes in which two cubes have the same colour; None: the checkpoint's."""
    instruction: str | None = None
    """Instruction for the policy; None: "Pick up the cube", and in the scene cubes one for each seed that fits its
    table."""
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
    workers: int = field(default_factory=default_workers)
    """Simulator processes."""
    engine: Engine = "local"
    """Where they run: on this machine, or as tasks of a Ray cluster, which --workers does not limit (docs/scale.md)."""
    shard: str | None = None
    """Run only a part of the episodes, such as 3/16, in each of several jobs with one shared --output-dir; then the
    same command without it writes the results (docs/scale.md)."""
    inference: InferenceMode = "auto"
    """Who computes: each worker on one CPU thread, or one copy of the policy that answers all workers in batches;
    auto: shared on a GPU."""
    output_dir: Path = Path("videos")
    """Folder for the results."""
    execute_steps: int = 1
    """Actions executed of each predicted chunk (the report: the first only)."""
    ensemble_decay: float | None = None
    """Temporal ensembling: weights exp(-decay i), i-th oldest first; None: off."""
    precision: Precision = "float32"
    """Numbers in which the policy computes; bfloat16 is faster on processors that multiply it natively, and changes
    actions in the third decimal."""
    videos: bool = True
    """Write eval_trial_N.mp4."""
    clip_weights: str = "openai"
    """Text tower for instructions outside the training set: open_clip tag or local file."""

    def __post_init__(self) -> None:
        for name in ("num_episodes", "max_steps", "workers"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {number}")
        self._check_instruction()
        count = self.episode_count() * (len(INSTRUCTIONS) if self.every_instruction else 1)
        self._check_seeds(self.first_seed(), self.first_seed() + count - 1)
        if self.policy != "checkpoint" and (self.blind or self.compare is not None):
            raise UserError(
                f"--policy {self.policy} sees no image and is no checkpoint; leave --blind and --compare out"
            )
        modes = [f"--{name}" for name in ("compare", "perturb", "rejudge") if getattr(self, name) is not None]
        modes += ["--language-suite"] if self.language_suite else []
        if len(modes) > 1:
            raise UserError(f"{' and '.join(modes)} were given together; give one of them at a time")
        if self.perturb is not None:
            parse_perturbations(self.perturb)
        if self.until_decided:
            self._check_until_decided()
        self._check_language_suite()
        self._check_scale()

    def _check_scale(self) -> None:
        if self.engine == "ray" and self.inference == "shared":
            raise UserError("--inference shared serves one machine, --engine ray has several; leave one of them out")
        if self.shard is None:
            return
        Shard.parse(self.shard)
        whole = [name for name in ("perturb", "rejudge", "until_decided") if getattr(self, name) not in (None, False)]
        if whole:
            raise UserError(f"--shard divides the episodes of a policy; --{whole[0].replace('_', '-')} runs as a whole")

    def _check_instruction(self) -> None:
        if self.instruction is None:
            return
        if not self.instruction.strip():
            raise UserError(f'--instruction is empty; say what to do, such as "{DEFAULT_INSTRUCTION}"')
        if len(self.instruction) > MOST_CHARACTERS:
            raise UserError(
                f"--instruction has {len(self.instruction)} characters, and at most {MOST_CHARACTERS} are allowed; "
                f'say it in a sentence, such as "{DEFAULT_INSTRUCTION}"'
            )

    def _check_seeds(self, first: int, last: int) -> None:
        allowed = SEEDS[self.split]
        if first not in allowed or last not in allowed:
            raise UserError(
                f"--seed {first}: --split {self.split} has the seeds {allowed.start}-{allowed.stop - 1}, and these "
                f"episodes would have {first}-{last}; seeds that chose a checkpoint must not test it"
            )

    def _check_language_suite(self) -> None:
        if not self.language_suite:
            if self.parts is not None:
                raise UserError("--parts chooses parts of the language suite; add --language-suite")
            return
        unknown = [name for name in self.parts or () if name not in PARTS]
        if unknown or self.parts == ():
            raise UserError(f"--parts {' '.join(unknown)}: the parts of the language suite are {', '.join(PARTS)}")
        own = ("instruction", "every_instruction", "seed", "cubes", "same_colour_share", "push_test")
        given = [f"--{name.replace('_', '-')}" for name in own if getattr(self, name) not in (None, False)]
        if given or self.scene == "lift":
            raise UserError(
                f"--language-suite has scenes, seeds and instructions of its own; leave {' '.join(given) or '--scene'} "
                "out"
            )

    def _check_until_decided(self) -> None:
        if self.compare is None:
            raise UserError("--until-decided compares two policies, and none were given; add --compare A.pth B.pth")
        if self.every_instruction:
            raise UserError(
                "--until-decided and --every-instruction were given together: the comparison could end before it has "
                "seen every instruction; leave one of them out"
            )
        if self.episode_count() < FEWEST_PAIRS:
            raise UserError(
                f"--num-episodes {self.episode_count()}: --until-decided cannot decide with fewer than {FEWEST_PAIRS} "
                "pairs; give the most that you would run, such as --num-episodes 200"
            )

    @property
    def policy_file(self) -> Path:
        """The checkpoint to evaluate."""
        return self.checkpoint or default_checkpoint(language=self.language_suite or self.scene == "cubes")

    def episode_count(self) -> int:
        """Episodes to run, with each instruction; of the language suite, seeds of its largest part."""
        return self.num_episodes or (LARGEST if self.language_suite else DEFAULT_EPISODES)

    def first_seed(self) -> int:
        """Seed of the first episode."""
        return SEEDS[self.split].start if self.seed is None else self.seed

    def env(self, checkpoint: Path) -> EnvConfig:
        """The simulator to evaluate in."""
        policy = checkpoint if self.policy == "checkpoint" else None
        scene: SceneKind | None = "cubes" if self.language_suite else self.scene
        return evaluated_env(policy, scene, self.cubes, self.same_colour_share)

    def episodes(self, env: EnvConfig) -> tuple[AskedEpisode, ...]:
        """The episodes that these options ask for in a simulator."""
        if env.scene.kind == "lift":
            chosen = INSTRUCTIONS if self.every_instruction else (self.instruction or DEFAULT_INSTRUCTION,)
            return lift_episodes(chosen, self.episode_count(), self.first_seed())
        if self.every_instruction:
            raise UserError(
                "--every-instruction has the eight instructions of the scene lift; in the scene cubes every seed has "
                "an instruction of its own: leave it out"
            )
        episodes = cubes_episodes(env.scene, self.episode_count(), self.first_seed(), self.instruction)
        self._check_seeds(episodes[0].seed, episodes[-1].seed)
        return episodes

    def plan(self, env: EnvConfig, episodes: tuple[AskedEpisode, ...]) -> EvaluationPlan:
        """How these episodes are run."""
        options: dict[str, Any] = {"seed": self.first_seed(), "num_episodes": self.episode_count()}
        if env.scene.kind == "lift":
            options["instruction"] = self.instruction or DEFAULT_INSTRUCTION
        return EvaluationPlan(
            episodes=episodes,
            split=self.split,
            max_steps=self.max_steps,
            control=ControlConfig(self.execute_steps, self.ensemble_decay, self.precision),
            blind=self.blind,
            push_test=self.push_test,
            videos=self.videos,
            workers=self.workers,
            inference=self.inference,
            options=dataclasses.asdict(self) | {"checkpoint": self.policy_file} | options,
            scene=env.scene,
            recorded=not self.language_suite,
            engine=self.engine,
            shard=None if self.shard is None else Shard.parse(self.shard),
        )

    def subject(self, checkpoint: Path, env: EnvConfig, plan: EvaluationPlan) -> Subject:
        """Who acts in this simulator: the policy of `checkpoint`, or a control."""
        if self.policy != "checkpoint":
            subject = control_subject(self.policy, plan.instructions)
        else:
            subject = checkpoint_subject(checkpoint, plan.instructions, plan.control, self.clip_weights)
        return dataclasses.replace(subject, env=env)


def main(options: EvaluateOptions) -> None:
    if options.rejudge is not None:
        if not print_second_opinions(options.rejudge):
            sys.exit(EXIT_JUDGES_DISAGREE)
        return
    checkpoints = tuple(map(local_checkpoint, options.compare or (options.policy_file,)))
    envs = [options.env(path) for path in checkpoints]
    check_same_simulator(checkpoints, envs)
    if options.language_suite:
        cases = part_cases(options.parts or tuple(PARTS), SEEDS[options.split], options.episode_count())
        plan = options.plan(envs[0], tuple(case.episode for case in cases))
        evaluate_language(plan, options.subject(checkpoints[0], envs[0], plan), cases, options.output_dir)
        return
    plan = options.plan(envs[0], options.episodes(envs[0]))
    first, *second = [options.subject(path, env, plan) for path, env in zip(checkpoints, envs, strict=True)]
    if second:
        compare_policies(plan, first, second[0], options.output_dir, options.until_decided)
    elif options.perturb is not None:
        perturbations = perturbations_for(options.perturb, envs[0].scene.kind)
        evaluate_perturbed(plan, first, perturbations, options.output_dir)
    else:
        evaluate(plan, first, options.output_dir)


if __name__ == "__main__":
    run_script(main, EvaluateOptions, __doc__, "run the same command again; it continues where it stopped")
