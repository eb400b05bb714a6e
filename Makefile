# Each target sets up what it needs first: Debian packages, the virtual environment, the guest image (scripts/setup.sh).
# What is there already is left alone. Works in any directory and needs nothing but make, as root, on Debian 12 or newer.

PREFIX ?= /usr/local
# Arguments for pytest, such as ARGS="tests/unit -k store".
ARGS ?=

.PHONY: help demo test lint format image install uninstall bench proto clean

help:
	@echo 'make demo      a pod in a virtual machine, from start to end'
	@echo 'make test      linters and all tests (ARGS="..." goes to pytest)'
	@echo 'make lint      ruff and mypy only'
	@echo 'make format    let ruff rewrite the sources'
	@echo 'make image     build the guest image'
	@echo 'make install   install below PREFIX (now $(PREFIX))'
	@echo 'make uninstall remove what install has put there'
	@echo 'make bench     figures, beside those of runc and crun'
	@echo 'make proto     regenerate the message modules'

demo:
	@sh scripts/setup.sh run image
	@sh scripts/demo.sh

test:
	@sh scripts/setup.sh test image
	@sh scripts/test.sh $(ARGS)

lint:
	@sh scripts/setup.sh lint
	@sh scripts/lint.sh

format:
	@sh scripts/setup.sh lint
	@.venv/bin/python -m ruff check -q --fix
	@.venv/bin/python -m ruff format -q

image:
	@sh scripts/setup.sh run image

install:
	@sh scripts/setup.sh run image
	@PREFIX='$(PREFIX)' sh scripts/install.sh

uninstall:
	@PREFIX='$(PREFIX)' sh scripts/install.sh --remove

bench:
	@sh scripts/setup.sh test image
	@.venv/bin/python -m bench $(ARGS)

proto:
	@sh scripts/setup.sh test
	@sh scripts/proto.sh

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
