# Ballast. `make help` lists the targets.
LINT = go tool -modfile=tools/go.mod golangci-lint
BENCHSTAT = go tool -modfile=tools/go.mod benchstat

.DEFAULT_GOAL := help
.PHONY: help build run test express-off conformance long soak check bench express microbench profile load fuzz picture xcaddy release image faults vulncheck clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build Caddy with Ballast: bin/caddy
	go build -o bin/caddy ./cmd/caddy

run: ## build, and start three example backends and the balancer; options in ARGS
	go run ./examples/run $(ARGS)

test: ## run all tests; installs missing programs where apt-get may be used
	@./.ci/deps
	go test -race ./...
	go test -C integration -race -timeout 30m

express-off: ## run the tests against real servers with the express lane off
	@./.ci/deps
	go test -C integration -race -timeout 30m -express=false

conformance: ## run other people's test suites against load_balancer and reverse_proxy, and print a table
	@./.ci/deps trust
	go test -C integration -tags trust -timeout 60m -run 'TestConformance' -v

faults: ## inject faults under load_balancer, reverse_proxy and HAProxy, and print a table; options in ARGS
	@./.ci/deps
	go test -C integration -tags trust -timeout 40m -run 'TestFaultTable' -v $(ARGS)

soak: ## run a Caddy with mixed faults, reloads, edits and floods for SOAK (30m), at SOAK_RATE requests per second (200)
	@./.ci/deps
	go test -C integration -tags trust -timeout 24h -run '^TestSoak$$' -v

long: ## run the tests against real servers for longer and with more load, such as a million clients; options in ARGS
	@./.ci/deps
	go test -C integration -race -timeout 2h -v -soak $(ARGS)

check: ## formatting, tidy go.mod files, vet, linters, layering, known vulnerabilities
	@test -z "$$(gofmt -l .)" || { echo "not gofmt'ed:"; gofmt -l .; exit 1; }
	go mod tidy -diff
	go -C integration mod tidy -diff
	go vet -tags trust ./...
	go vet -C integration -tags trust ./...
	$(LINT) run --build-tags trust ./...
	cd integration && $(LINT:tools/go.mod=../tools/go.mod) run --build-tags trust ./...
	go test -run 'TestLayering|TestFileSizes|TestModules' .
	./.ci/vulncheck

vulncheck: ## look for known vulnerabilities in the code that Ballast calls; VULNDB is the version of the database, e.g. latest
	./.ci/vulncheck

bench: ## compare with reverse_proxy, HAProxy and nginx, including the express lane; options in ARGS
	go run ./bench $(ARGS)

express: ## compare only the express lane with HAProxy; options in ARGS
	go run ./bench -express $(ARGS)

MICROBENCH = bin/microbench.txt
# Skipped because they take too long: work that is not on the request path, large pools, and concurrent requests.
MICROBENCH_SKIP = Build|Parallel|Busy|NoRoom|Take/262144|Take/1048576|././1000+|./././capped
microbench: ## run the micro-benchmarks of the request path, and compare them with the first run, or with BASE
	@mkdir -p bin
	go test -run '^$$' -bench . -skip '$(MICROBENCH_SKIP)' -benchmem -benchtime 200ms -count 6 ./lbmodule/... ./ratelimit/... >$(MICROBENCH).new \
		|| { cat $(MICROBENCH).new; exit 1; }
	@base=$${BASE:-$(MICROBENCH)}; if [ -e "$$base" ]; then $(BENCHSTAT) "$$base" $(MICROBENCH).new; \
		else cp $(MICROBENCH).new "$$base" && $(BENCHSTAT) "$$base" && echo "saved as $$base, the base of later comparisons"; fi

profile: ## record cmd/caddy/default.pgo again, the profile for go build and xcaddy.sh; options in ARGS
	go run ./bench/profile $(ARGS)

load: ## put an open-loop load on the running demo; options in ARGS
	go run ./bench/load $(ARGS)

fuzz: ## fuzz every target for FUZZTIME (1m) and print a table; ARGS selects targets
	@./fuzz.sh $(ARGS)

picture: ## make the picture of the dashboard in README.md again, from the demo under load; needs Chromium
	go build -C integration -o ../bin/screenshot ./screenshot
	bin/screenshot

xcaddy: ## build with xcaddy, as users do: bin/caddy-xcaddy
	./xcaddy.sh

release: ## make the files of a release in dist/: VERSION=v0.1.0, options in ARGS
	go run ./deploy/release -version '$(VERSION)' $(ARGS)

image: ## make an OCI image for Linux in dist/, without a container engine: VERSION=v0.1.0, options in ARGS
	go run ./deploy/release -image -platforms "linux/$$(go env GOARCH)" -version '$(VERSION)' $(ARGS)

clean: ## remove build results
	rm -rf bin dist
