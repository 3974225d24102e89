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
	rate        int    // requests per second, open loop
	requests    int    // that are counted; 0 for what -duration gives
	columns     []column
}

// column is a figure of what came back.
type column struct {
	title string
	of    func(got *openloop.Summary, spoilt string) string
}

const (
	unevenRate     = 400
	unevenWarmUp   = 2 * time.Second
	unevenBackends = 5
	unevenTimeout  = 5 * time.Second // of a request; and what one that is not served counts as

	// tailRate and tailRequests make forty requests of one in a hundred of one in five.
	tailRate, tailRequests = 2500, 20_000
	tailFrom               = 500 * time.Millisecond
)

// usualSettings are those of a backend that nothing is wrong with.
const usualSettings = `{"status": 200, "delay": "10ms", "slow_ratio": 0}`

// unevenScenarios are measured after one another. Each has contenders of its own, so that nobody is judged by what he saw before.
var unevenScenarios = []unevenScenario{
	{"healthy", "all answer in 10 ms", usualSettings, unevenRate, 0, []column{median50, tail99, tail999, itsShare}},
	{"late", "one answers 300 ms later", `{"delay": "310ms"}`, unevenRate, 0, []column{median50, tail99, tail999, itsShare}},
	{"slow", "one takes ten times as long", `{"delay": "100ms"}`, unevenRate, 0, []column{median50, tail99, tail999, itsShare}},
	{"refusing", "one answers 429 at once", `{"delay": "0s", "status": 429}`, unevenRate, 0, []column{refused, tail99Served, tail99All, itsShare}},
	{
		"tail", "one takes 1 s for one request in a hundred", `{"slow_ratio": 0.01, "slow_delay": "1s"}`, tailRate, tailRequests,
		[]column{median50, tail99, tail999, above, itsShare},
	},
}

var (
	median50 = quantile("p50", 0.5)
	tail99   = quantile("p99", 0.99)
	tail999  = quantile("p99.9", 0.999)

	itsShare = column{"its share", func(got *openloop.Summary, spoilt string) string { return percent(got.Backends[spoilt], got.Sent) }}
	refused  = column{"refused", func(got *openloop.Summary, _ string) string {
		return percent(got.Sent-got.Statuses[http.StatusOK], got.Sent)
	}}
	tail99Served = column{"p99 of those served", func(got *openloop.Summary, _ string) string {
		return tenths(got.Only(isServed).Quantile(0.99))
	}}
	tail99All = column{"p99 of all", func(got *openloop.Summary, _ string) string { return tenths(quantileOfAll(got, 0.99)) }}
	above     = column{"above 500 ms", func(got *openloop.Summary, _ string) string {
		return fmt.Sprintf("%d of %d", countAbove(got, tailFrom), got.Sent)
	}}
)

func quantile(title string, q float64) column {
	return column{title, func(got *openloop.Summary, _ string) string { return tenths(got.Quantile(q)) }}
}

func isServed(r openloop.Request) bool { return r.Status == http.StatusOK }

// quantileOfAll is a quantile of all latencies, where what is not served takes as long as a client waits at most: a refusal is no fast answer.
func quantileOfAll(got *openloop.Summary, q float64) time.Duration {
	served := got.Only(isServed)
	if rank := q * float64(got.Sent); rank < float64(served.Sent) {
		return served.Quantile(rank / float64(served.Sent))
	}
	return unevenTimeout
}

func countAbove(got *openloop.Summary, d time.Duration) int {
	return got.Only(func(r openloop.Request) bool { return r.Latency > d }).Sent
}

// unevenKinds are the policies that are compared.
func unevenKinds(dir string, o options) []kind {
	policy := func(name, directive, word string) kind {
		return caddyKind(name, o, directive, " {\n\t\tlb_policy "+word+"\n\t}")
	}
	return []kind{
		policy("`peak_ewma`", "load_balancer", "peak_ewma"),
		policy("`least_conn`", "load_balancer", "least_conn"),
		policy("`p2c`", "load_balancer", "p2c"),
		policy("`round_robin`", "load_balancer", "round_robin"),
		policy("Caddy `least_conn`", "reverse_proxy", "least_conn"),
		haproxyKind("HAProxy `leastconn`", "leastconn"),
		haproxyKind("HAProxy `random(2)`", "random(2)"),
		nginxKind("nginx `least_conn`", dir, "zone b 64k; least_conn;"),
		nginxKind("nginx `random two`", dir, "zone b 64k; random two least_conn;"),
	}
}

// startUnevenBackends starts backends that can be spoilt.
func startUnevenBackends(ctx context.Context, started *processes, dir string) (backends []string, err error) {
	program := filepath.Join(dir, "backend")
	if out, err := exec.Command("go", "build", "-o", program, "./examples/backend").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the backend: %w\n%s", err, out)
	}
	for range unevenBackends {
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		if _, err := started.start("backend", address, program, "-listen", address, "-name", address); err != nil {
			return nil, err
		}
		if err := change(ctx, address, usualSettings); err != nil {
			return nil, err
		}
		backends = append(backends, address)
	}
	return backends, nil
}

// compare measures all contenders in s, with the first of the backends spoilt.
func (s unevenScenario) compare(ctx context.Context, dir string, o options) error {
	var started processes
	defer started.stop()
	backends, err := startUnevenBackends(ctx, &started, dir)
	if err != nil {
		return err
	}
	contenders, err := startKinds(&started, dir, unevenKinds(dir, o), backends)
	if err != nil {
		return err
	}
	spoilt := backends[0]
	if err := change(ctx, spoilt, s.settings); err != nil {
		return err
	}
	printHead(s.title, s.columns)
	for _, c := range contenders {
		load := openloop.Options{URL: "http://" + c.address + "/", Rate: s.rate, Duration: unevenWarmUp, Timeout: unevenTimeout}
		if _, err := openloop.Run(ctx, load); err != nil {
			return err
		}
		load.Duration = o.duration
		if s.requests > 0 {
			load.Duration = time.Duration(s.requests) * time.Second / time.Duration(s.rate)
		}
		got, err := openloop.Run(ctx, load)
		if err != nil {
			return err
		}
		printRow(c.name, s.columns, got, spoilt)
	}
	return nil
}

// printHead and printRow print a table as READMEs have them.
func printHead(title string, columns []column) {
	fmt.Printf("\n| %s |", title)
	for _, c := range columns {
		fmt.Printf(" %s |", c.title)
	}
	fmt.Printf("\n|---|%s\n", strings.Repeat("---|", len(columns)))
}

func printRow(name string, columns []column, got *openloop.Summary, spoilt string) {
	fmt.Printf("| %s |", name)
	for _, c := range columns {
		fmt.Printf(" %s |", c.of(got, spoilt))
	}
	fmt.Println()
}

func percent(n, of int) string { return fmt.Sprintf("%.1f %%", 100*float64(n)/float64(max(of, 1))) }

// tenths shows a latency in milliseconds.
func tenths(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }

// change changes the settings of a backend.
func change(ctx context.Context, backend, settings string) error {
	return call(ctx, http.MethodPatch, "http://"+backend+"/_settings", "application/json", settings)
}

// call sends a request that must be answered with success.
func call(ctx context.Context, method, url, contentType, body string) error {
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", contentType)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: status %d", method, url, res.StatusCode)
	}
	return nil
}
