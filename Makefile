# Needs Debian, root, Go and Rust. Uses no image registry and no other cluster.

# Build results are kept outside the clone, so that a fresh clone can use those of the last one.
export AHOI_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ahoi
export CARGO_TARGET_DIR ?= $(AHOI_CACHE)/target

cluster := e2e/cluster
group = $(shell sed -n 's/^pub const GROUP: &str = "\(.*\)";/\1/p' shared/api/src/names.rs)

# Before any recipe: see e2e/cluster/claim.
$(if $(filter-out help down,$(or $(MAKECMDGOALS),help)),$(shell $(cluster)/claim))

.PHONY: help up demo down test test-ledger test-ending test-cnpg bench bench-quick bench-fleet images crds rename

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

up: ## Create a cluster with Ahoi; the kubeconfig is in .cluster/
	@$(cluster)/install
	@$(cluster)/build-tools >/dev/null
	@$(cluster)/up demo
	@$(cluster)/images >/dev/null
	@$(cluster)/load demo
	@$(cluster)/install-suite demo

demo: up ## Create the cluster and one customer, and query its database
	@$(cluster)/demo demo

down: ## Delete the demo cluster
	@$(cluster)/down demo

test: ## Run all checks of CI, including the end-to-end tests
	@$(cluster)/install
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test --workspace --exclude ahoi-e2e --locked
	RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --document-private-items --locked
	.ci/licences
	.ci/links
	.ci/words
	.ci/rename
	@$(cluster)/build-tools >/dev/null
	.ci/overlay
	.ci/guides
	shellcheck -x -P SCRIPTDIR $$(grep -rlE '^(#!.*sh$$|# shellcheck shell)' .ci demo e2e manifests)
	@trap '$(cluster)/down test' EXIT; trap 'exit 130' INT TERM; e2e/run
	@traces=$$($(cluster)/traces test); [ -z "$$traces" ] || { echo "these remain after the cluster was deleted:"; echo "$$traces"; exit 1; } >&2

test-ledger: ## Count failed queries and lost commits through restarts and outages (half an hour, not part of `make test`)
	@trap '$(cluster)/down test' EXIT; trap 'exit 130' INT TERM; e2e/run ledger

test-ending: ## Delete customers and servers while something blocks it, and check what remains (not part of `make test`)
	@trap '$(cluster)/down test' EXIT; trap 'exit 130' INT TERM; e2e/run ending

test-cnpg: ## Test CloudNativePG as a DatabaseServer, as in docs/cloudnative-pg.md (half an hour, not part of `make test`)
	@trap '$(cluster)/down test' EXIT; trap 'exit 130' INT TERM; e2e/run cnpg

bench-fleet: ## Measure the cost of the size of a PgBouncer fleet
	@e2e/bench-fleet

bench: ## Measure Ahoi in three runs and update docs/benchmarks (takes hours; needs an idle machine)
	@e2e/bench/run full

bench-quick: ## Measure a small part, in about five minutes after the build
	@e2e/bench/run quick

images: ## Build the container images; dist/images.env lists their names
	@$(cluster)/install
	@$(cluster)/images

crds: ## Generate crds/ and docs/reference/reasons.md from shared/api
	cargo run --quiet -p ahoi-api --example crdgen -- crds
	cargo run --quiet -p ahoi-api --example reasongen -- docs/reference/reasons.md

rename: ## Replace the API group by your own domain: make rename GROUP=platform.example.com
	@git grep -lzF '$(group)' | xargs -0 sed -i 's/$(subst .,\.,$(group))/$(GROUP)/g'
	@$(MAKE) --no-print-directory crds
