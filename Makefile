# Ballast. `make help` lists what there is.
LINT = go tool -modfile=tools/go.mod golangci-lint
BENCHSTAT = go tool -modfile=tools/go.mod benchstat

.DEFAULT_GOAL := help
.PHONY: help build run test express-off conformance long soak check bench express microbench profile load fuzz picture xcaddy release image faults vulncheck clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build Caddy with Ballast: bin/caddy
	go build -o bin/caddy ./cmd/caddy

run: ## build, then start three example backends and the balancer; options in ARGS
	go run ./examples/run $(ARGS)

test: ## run all tests; installs what they need where apt-get may be used
	@./.ci/deps
	go test -race ./...
	go test -C integration -race -timeout 30m

express-off: ## run the tests against real servers once more, with the express lane off
	@./.ci/deps
	go test -C integration -race -timeout 30m -express=false

conformance: ## run other people's test suites against load_balancer and reverse_proxy, and print a table
	@./.ci/deps trust
	go test -C integration -tags trust -timeout 60m -run 'TestConformance' -v

faults: ## put faults upon load_balancer, reverse_proxy and HAProxy, and print a table; options in ARGS
	@./.ci/deps
	go test -C integration -tags trust -timeout 40m -run 'TestFaultTable' -v $(ARGS)

soak: ## put mixed faults, reloads, edits and floods on a Caddy under load for SOAK (30m), SOAK_RATE requests per second (200)
	@./.ci/deps
	go test -C integration -tags trust -timeout 24h -run '^TestSoak$$' -v

long: ## run the tests against real servers for longer and with more, a million clients among it; options in ARGS
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

vulncheck: ## look for known vulnerabilities in what Ballast calls; VULNDB is the version of the database, e.g. latest
	./.ci/vulncheck

bench: ## measure side by side with reverse_proxy, HAProxy and nginx, the express lane as well; options in ARGS
	go run ./bench $(ARGS)

express: ## measure the express lane side by side with HAProxy, and nothing else; options in ARGS
	go run ./bench -express $(ARGS)

MICROBENCH = bin/microbench.txt
# Left out, because they take too long: what no request does, large pools, and what many requests do at the same time.
MICROBENCH_SKIP = Build|Parallel|Busy|NoRoom|Take/262144|Take/1048576|././1000+|./././capped
microbench: ## run the micro-benchmarks of the request path; compare them with those of the first run, or of BASE
	@mkdir -p bin
	go test -run '^$$' -bench . -skip '$(MICROBENCH_SKIP)' -benchmem -benchtime 200ms -count 6 ./lbmodule/... ./ratelimit/... >$(MICROBENCH).new \
		|| { cat $(MICROBENCH).new; exit 1; }
	@base=$${BASE:-$(MICROBENCH)}; if [ -e "$$base" ]; then $(BENCHSTAT) "$$base" $(MICROBENCH).new; \
		else cp $(MICROBENCH).new "$$base" && $(BENCHSTAT) "$$base" && echo "saved as $$base, which the next run is compared with"; fi

profile: ## record cmd/caddy/default.pgo again, which go build and xcaddy.sh compile with; options in ARGS
	go run ./bench/profile $(ARGS)

load: ## put an open-loop load on the running demo; options in ARGS
	go run ./bench/load $(ARGS)

fuzz: ## fuzz every target for FUZZTIME (1m) and print a table; which in ARGS
	@./fuzz.sh $(ARGS)

picture: ## make the picture of the dashboard in README.md anew, of the demo under load; needs Chromium
	go build -C integration -o ../bin/screenshot ./screenshot
	bin/screenshot

xcaddy: ## build with xcaddy, as users do: bin/caddy-xcaddy
	./xcaddy.sh

release: ## make the files of a release in dist/: VERSION=v0.1.0, options in ARGS
	go run ./deploy/release -version '$(VERSION)' $(ARGS)

image: ## make an OCI image of Linux in dist/, without an engine: VERSION=v0.1.0, options in ARGS
	go run ./deploy/release -image -platforms "linux/$$(go env GOARCH)" -version '$(VERSION)' $(ARGS)

clean: ## remove what was built
	rm -rf bin dist
