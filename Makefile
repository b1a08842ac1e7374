PYTHON ?= $(shell command -v python3 || command -v python)
BIN := .venv/bin
KILLS ?= 25
MODEL ?= runs/demo
FOUND ?= where is the gland? upper left
SECONDS ?= 600

# One worker per core, each with one thread: the models are too small for more. A free worker takes tests from the others.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal --durations 10

.PHONY: demo app test test-all bench fuzz kill-test test-oldest test-transformers quality style docs

demo: runs/drawn_slides/example.png
	$(BIN)/python run_pathvqa.py configs/demo.json --overwrite_output_dir
	$(BIN)/mmjepa search runs/drawn_slides "$(FOUND)" --model runs/demo --split validation --top 12 --html runs/demo/search.html

app: .venv/installed
	$(BIN)/mmjepa app $(MODEL)

# The example is the last file that is written.
runs/drawn_slides/example.png: | .venv/installed
	$(BIN)/python -m mmjepa.data.drawn_slides $(@D) --num_train 6000 --num_validation 300

# All but the slow tests: kills, several processes, a browser, the documents' commands.
test: .venv/installed
	$(PYTEST) -m "not slow"

test-all: test
	$(PYTEST) -m slow

# The lower bounds of setup.cfg.
test-oldest: .venv-oldest/installed
	.venv-oldest/bin/python -m pytest

test-transformers: build/transformers/tests
	PYTHONPATH=build/transformers $(BIN)/python -m pytest -rs --disable-warnings tests/transformers_common.py

# transformers' own common tests, from the source distribution of the installed version.
build/transformers/tests: .venv/installed
	rm -rf $(@D) && mkdir -p $(@D)
	$(BIN)/pip download -q --no-deps --no-binary transformers -d $(@D) $$($(BIN)/pip freeze | grep ^transformers==)
	tar -xzf $(@D)/transformers-*.tar.gz -C $(@D) --strip-components 1
	touch $@

# Kills a training run, resumes it, and compares it with one that was not killed. Flags of the script: KILL_FLAGS.
kill-test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/killed_runs.py --kills $(KILLS) $(KILL_FLAGS)

fuzz: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzzing.py --seconds $(SECONDS)

bench: .venv/installed
	@echo 'Six benchmarks, each of at most 5 minutes on two cores that nothing else uses.'
	set -e; for name in training answering data memory search precision; do $(BIN)/python benchmarks/bench_$$name.py; done

quality: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	MYPYPATH=.venv/package $(BIN)/mypy

# The pages and what they link to are copied to where their links work as in the repository, and the code to where no
# other packages are searched for its docstrings.
docs: .venv/installed
	rm -rf build/docs build/code && mkdir -p build/docs build/code/mmjepa
	cp -r *.py data evaluation experiments export metrics page reporting training build/code/mmjepa/
	cp -r *.md LICENSE CITATION.cff docs configs experiments export build/docs/
	$(BIN)/mkdocs build --strict

style: .venv/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# An existing environment is installed into and never removed, because a process may be running in it.
# torch is installed first and alone, so that the other packages use its build. Environments of uv have no pip.
# mypy finds the package only in a folder of its name, and a clone may have any name: hence the link.
.venv/installed: setup.cfg constraints.txt
.venv-oldest/installed: setup.cfg constraints-oldest.txt
%/installed:
	test -e $* || $(PYTHON) -m venv $*
	@$*/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo '$* has no Python 3.11 or newer: move it away, then call make PYTHON=python3.11 or newer' >&2; exit 1; }
	$*/bin/python -m pip --version > /dev/null 2>&1 || $*/bin/python -m ensurepip
	$*/bin/python -m pip install -q -c $(filter constraints%,$^) torch
	$*/bin/python -m pip install -q -c $(filter constraints%,$^) -e '.[dev]'
	mkdir -p $*/package
	ln -sfn ../.. $*/package/mmjepa
	touch $@
