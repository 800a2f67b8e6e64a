# make help lists what there is. Only Go and make are needed.

MIN_GO := $(shell sed -n 's/^go //p' go.mod)
PROMPT ?= Once upon a time there was a
HTTP   ?= 127.0.0.1:8000
NATS   ?= 127.0.0.1:4222
MODEL  ?=
ARGS   ?=
SERVE  := --http $(HTTP) --nats-listen $(NATS) $(if $(MODEL),--model $(MODEL)) $(ARGS)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' Makefile

.PHONY: go
go:
	@command -v go >/dev/null || { \
	  echo 'Go is not installed. Install Go $(MIN_GO) or newer, then try again:'; \
	  echo '  https://go.dev/doc/install, or the package golang of your system'; exit 1; }

.PHONY: build
build: go ## build bin/troupe
	@[ -e bin/troupe ] || echo 'building bin/troupe; the first time takes a minute or two' >&2
	@go build -trimpath -o bin/troupe ./cmd/troupe

.PHONY: run
run: build ## start a single-node engine, show an answer, keep serving; ONCE=1 stops after it
	@exec ./bin/troupe serve --log-level warn --prompt "$(PROMPT)" $(if $(ONCE),--once) $(SERVE)

.PHONY: serve
serve: build ## serve with the log on
	@exec ./bin/troupe serve $(SERVE)

.PHONY: test
test: go ## vet, check the format, and run all tests with the race detector
	go vet ./...
	@unformatted=$$(gofmt -l $$(git ls-files '*.go' 2>/dev/null || find . -name '*.go')); \
	  if [ -n "$$unformatted" ]; then echo "run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	@[ -n "$(RACE)" ] || echo 'no C compiler: testing without the race detector'
	go test $(RACE) -short -timeout 15m ./...

# The race detector is the only thing that needs a C compiler.
RACE = $(shell [ "$$(go env CGO_ENABLED)" = 1 ] && command -v $$(go env CC) >/dev/null && echo -race)

.PHONY: bench
bench: build ## measure the bus and the served engine
	./bin/troupe bench bus
	./bin/troupe bench serve

.PHONY: lint
lint: go ## run the linters, which it builds into .tools
	@scripts/lint.sh

.PHONY: generate
generate: go ## regenerate assembly, tables and the option table of the README
	go generate ./...
	@scripts/check_asm.sh

.PHONY: ci
ci: ## everything that CI checks
	@.ci/run

.PHONY: clean
clean: ## remove what was built
	rm -rf bin .tools
