# Everything a newcomer needs. Nothing is asked of the machine but Debian, root, Go and Rust: there is no
# registry and no cluster outside of this one.

# What takes long to build lies outside the clone, so that a fresh one starts where the last one was.
export AHOI_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ahoi
export CARGO_TARGET_DIR ?= $(AHOI_CACHE)/target

cluster := e2e/cluster
group = $(shell sed -n 's/^pub const GROUP: &str = "\(.*\)";/\1/p' shared/api/src/names.rs)

# Said before any recipe: which clone's sources are built.
$(if $(filter-out help down,$(or $(MAKECMDGOALS),help)),$(shell $(cluster)/claim))

.PHONY: help up demo down test test-ledger test-ending test-cnpg bench bench-quick bench-fleet images crds rename

help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile

up: ## a cluster of its own with the suite in it, kubeconfig in .cluster/
	@$(cluster)/install
	@$(cluster)/build-tools >/dev/null
	@$(cluster)/up demo
	@$(cluster)/images >/dev/null
	@$(cluster)/load demo
	@$(cluster)/install-suite demo

demo: up ## the same, then one customer from nothing to a query
	@$(cluster)/demo demo

down: ## takes the demo cluster away, all of it
	@$(cluster)/down demo

test: ## everything CI checks, end-to-end tests included
	@$(cluster)/install
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test --workspace --exclude ahoi-e2e --locked
	RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --document-private-items --locked
	.ci/licences
	.ci/rename
	@$(cluster)/build-tools >/dev/null
	.ci/overlay
	.ci/guides
	shellcheck -x -P SCRIPTDIR $$(grep -rlE '^(#!.*sh$$|# shellcheck shell)' .ci demo e2e manifests)
	@trap '$(cluster)/down test' EXIT; trap 'exit 130' INT TERM; e2e/run
	@traces=$$($(cluster)/traces test); [ -z "$$traces" ] || { echo "left behind:"; echo "$$traces"; exit 1; } >&2

test-ledger: ## a ledger of transactions through every disturbance; takes a while, and is no part of `make test`
	@trap '$(cluster)/down test' EXIT; trap 'exit 130' INT TERM; e2e/run ledger

test-ending: ## customers and servers deleted while something is in the way, and what is left of them; no part of `make test`
	@trap '$(cluster)/down test' EXIT; trap 'exit 130' INT TERM; e2e/run ending

test-cnpg: ## CloudNativePG as a DatabaseServer: docs/cloudnative-pg.md followed, switchovers and crashes; no part of `make test`
	@trap '$(cluster)/down test' EXIT; trap 'exit 130' INT TERM; e2e/run cnpg

bench-fleet: ## what a fleet's size costs, measured with real pgbouncers; no part of `make test`
	@e2e/bench-fleet

bench: ## what the suite costs, three runs on a machine where nothing else runs; docs/benchmarks (takes hours)
	@e2e/bench/run full

bench-quick: ## the same, small: for a look, about five minutes once all is built
	@e2e/bench/run quick

images: ## the container images, and dist/images.env with their names
	@$(cluster)/install
	@$(cluster)/images

crds: ## crds/ from shared/api
	cargo run --quiet -p ahoi-api --bin crdgen -- crds

rename: ## GROUP=… puts your own domain in the place of the API group, everywhere
	@git grep -lzF '$(group)' | xargs -0 sed -i 's/$(subst .,\.,$(group))/$(GROUP)/g'
	@$(MAKE) --no-print-directory crds
