package main

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/ballastlb/ballast/bench/openloop"
)

// unevenScenario is something that is wrong with one of five backends.
type unevenScenario struct {
	name, title string
	settings    string // of that backend: see examples/backend
}

// usualSettings are those of a backend that nothing is wrong with.
const usualSettings = `{"status": 200, "delay": "10ms", "slow_ratio": 0}`

// The first is what the others are compared with. Each spoils another backend, so that none is judged by what it did before.
var unevenScenarios = []unevenScenario{
	{"healthy", "all answer in 10 ms", usualSettings},
	{"late", "one answers 300 ms later", `{"delay": "310ms"}`},
	{"slow", "one takes ten times as long", `{"delay": "100ms"}`},
	{"failing", "one answers 429 at once", `{"delay": "0s", "status": 429}`},
	{"tail", "one takes 1 s for one request in a hundred", `{"slow_ratio": 0.01, "slow_delay": "1s"}`},
}

const (
	unevenRate   = 400 // requests per second, open loop
	unevenWarmUp = 2 * time.Second
	unevenPeers  = 5
)

// startUneven starts the backends, and all contenders in front of them.
func startUneven(started *processes, dir string, o options) (backends []string, contenders []contender, err error) {
	program := filepath.Join(dir, "backend")
	if out, err := exec.Command("go", "build", "-o", program, "./examples/backend").CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("building the backend: %w\n%s", err, out)
	}
	for range unevenPeers {
		address, err := freeAddress()
		if err != nil {
			return nil, nil, err
		}
		if _, err := started.start("backend", address, program, "-listen", address, "-name", address); err != nil {
			return nil, nil, err
		}
		backends = append(backends, address)
	}
	policy := func(directive, word string) func(string) (string, []string) {
		return caddyKind(o, directive, backends, " {\n\t\tlb_policy "+word+"\n\t}")
	}
	kinds := []kind{
		{"peak_ewma", policy("load_balancer", "peak_ewma")},
		{"least_conn", policy("load_balancer", "least_conn")},
		{"p2c", policy("load_balancer", "p2c")},
		{"round_robin", policy("load_balancer", "round_robin")},
		{"reverse_proxy least_conn", policy("reverse_proxy", "least_conn")},
		{"haproxy leastconn", haproxyKind(backends, "leastconn")},
		{"haproxy random(2)", haproxyKind(backends, "random(2)")},
		{"nginx least_conn", nginxKind(dir, backends, "zone b 64k; least_conn;")},
		{"nginx random two", nginxKind(dir, backends, "zone b 64k; random two least_conn;")},
	}
	contenders, err = startKinds(started, dir, kinds)
	return backends, contenders, err
}

// measureUneven measures all contenders in all scenarios.
func measureUneven(ctx context.Context, o options, backends []string, contenders []contender) error {
	for i, s := range unevenScenarios {
		for _, b := range backends {
			if err := change(ctx, b, usualSettings); err != nil {
				return err
			}
		}
		spoilt := backends[i%len(backends)]
		if err := change(ctx, spoilt, s.settings); err != nil {
			return err
		}
		fmt.Printf("\n%s: %s\n%-26s %9s %9s %9s %14s %9s\n", s.name, s.title, "", "p50", "p99", "p99.9", "its share", "refused")
		for _, c := range contenders {
			load := openloop.Options{URL: "http://" + c.address + "/", Rate: unevenRate, Duration: unevenWarmUp}
			if _, err := openloop.Run(ctx, load); err != nil {
				return err
			}
			load.Duration = o.duration
			got, err := openloop.Run(ctx, load)
			if err != nil {
				return err
			}
			fmt.Printf("%-26s %9v %9v %9v %12.1f %% %7.1f %%\n", c.name, tenths(got.Quantile(0.5)), tenths(got.Quantile(0.99)), tenths(got.Quantile(0.999)),
				percent(got.Backends[spoilt], got.Sent), percent(got.Sent-got.Statuses[http.StatusOK], got.Sent))
		}
	}
	return nil
}

func percent(n, of int) float64 { return 100 * float64(n) / float64(max(of, 1)) }

func tenths(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

// change changes the settings of a backend.
func change(ctx context.Context, backend, settings string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPatch, "http://"+backend+"/_settings", strings.NewReader(settings))
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("settings %s of a backend: status %d", settings, res.StatusCode)
	}
	return nil
}
