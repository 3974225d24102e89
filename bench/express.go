package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
)

const (
	expressOn  = "load_balancer"
	expressOff = "load_balancer, express off"
	expressBar = "haproxy" // the reference of the goals
	expressToo = "nginx"
)

// expressColumns are the contenders in the order of the table.
var expressColumns = []string{expressOn, expressOff, expressBar, expressToo}

// expressScenario is a scenario in which load_balancer behind seamless, with and without its express lane, is compared with HAProxy.
type expressScenario struct {
	scenario
	logged bool // with access logs
	idle   bool // the memory of idle connections is measured
	goals  []goal
}

// expressScenarios returns all of them.
func expressScenarios() []expressScenario {
	fast := func(cpu float64) []goal {
		return []goal{{figure: cpuFigure, most: cpu}, {figure: tailFigure, most: 1.10}, {figure: rateFigure, least: 0.90}}
	}
	idle := []goal{{figure: idleFigure, most: 10, absolute: true}}
	return []expressScenario{
		{scenario: scenario{name: "express-get1k", title: "GET, 1 KiB", path: "/1k", answer: 1 << 10}, goals: fast(1)},
		{scenario: scenario{name: "express-post4k", title: "POST, 4 KiB", path: "/post", answer: 2, post: 4 << 10}, goals: fast(1)},
		{scenario: scenario{name: "express-get100k", title: "GET, 100 KiB", path: "/100k", answer: 100 << 10}, goals: fast(1)},
		{scenario: scenario{name: "express-https", title: "GET, 1 KiB, TLS with HTTP/1.1", path: "/1k", answer: 1 << 10, ends: ends{tls: true}}, goals: fast(1.25)},
		{scenario: scenario{name: "express-conns1000", title: "GET, 1 KiB, 1,000 connections", path: "/1k", answer: 1 << 10, connections: 1000}, goals: fast(1)},
		{scenario: scenario{name: "express-log", title: "GET, 1 KiB, access log", path: "/1k", answer: 1 << 10}, logged: true,
			goals: []goal{{figure: cpuFigure, most: 2}, {figure: tailFigure}, {figure: rateFigure}}},
		{scenario: scenario{name: "express-idle", title: "idle connections", path: "/1k", answer: 1 << 10}, idle: true, goals: idle},
		{scenario: scenario{name: "express-idletls", title: "idle connections, TLS", path: "/1k", answer: 1 << 10, ends: ends{tls: true}}, idle: true, goals: idle},
	}
}

func expressExperiments() (all []experiment) {
	for _, s := range expressScenarios() {
		all = append(all, experiment{s.name, s.compare})
	}
	return all
}

// compare measures all contenders, prints the results, and judges them.
func (s expressScenario) compare(ctx context.Context, dir string, o options) (results, error) {
	var log *syslog
	if s.logged {
		var err error
		if log, err = startSyslog(); err != nil {
			return results{}, fmt.Errorf("taking a log: %w", err)
		}
		defer log.close()
	}
	s.kinds = func(_ *processes, dir string, o options) ([]kind, error) { return expressKinds(dir, o, log), nil }
	measure := s.scenario.measure
	if s.idle {
		measure = s.measureIdle
	}
	contenders, rounds, err := measure(ctx, dir, o)
	if err != nil {
		return results{}, err
	}
	if !s.idle {
		fmt.Print(report(s.scenario, contenders, rounds, nil))
	}
	return results{lines: s.lines(contenders, rounds)}, nil
}

// expressKinds returns the proxies: ours with everything that is on in production, and HAProxy with its equivalents; with access logs if
// there is a log for HAProxy. Without one, there is nginx as well, which only forwards.
func expressKinds(dir string, o options, log *syslog) []kind {
	lines := haproxyLines{
		frontend: " stick-table type ip size 100k expire 1m store http_req_rate(10s)\n" +
			" http-request track-sc0 src\n" +
			" http-request deny deny_status 429 if { sc_http_req_rate(0) gt 10000000 }\n",
		backend: " retries 1\n option redispatch\n http-reuse always\n",
	}
	if log != nil {
		lines.frontend += " log " + log.address() + " local0\n option httplog\n"
	}
	haproxy := haproxyWith(expressBar, lines, "roundrobin")
	// Breaker and retries are on by default.
	ours := func(name, file string, block ...string) kind {
		seamless := slices.Concat([]string{"listener_wrappers {", "\tseamless {"}, block, []string{"\t}", "}"})
		directives := highLimit + "load_balancer"
		file = filepath.Join(dir, file)
		if log != nil {
			directives = logTo(file) + directives
		}
		k := caddyWithServers(name, o, "admin off\n\tmetrics", seamless, directives, "lb_policy "+o.policy)
		if log != nil {
			k.log = logFile(file)
		}
		return k
	}
	kinds := []kind{haproxy, ours(expressOn, "express.log"), ours(expressOff, "chain.log", "\t\texpress off")}
	if log != nil {
		kinds[0].log = log
		return kinds
	}
	return append(kinds, nginxKind(expressToo, dir, ""))
}

// lines returns the rows of this scenario in the table: one for each goal, and one for failures.
func (s expressScenario) lines(contenders []contender, rounds [][]sample) (all []line) {
	index := func(name string) int {
		return slices.IndexFunc(contenders, func(c contender) bool { return c.name == name })
	}
	on, bar := index(expressOn), index(expressBar)
	failed := line{scenario: s.title, goal: goal{figure: figure{name: "failed requests"}}}
	for _, name := range expressColumns {
		cell := "-"
		if i := index(name); i >= 0 {
			n := errorsOf(rounds, i)
			failed.failures += n
			cell = fmt.Sprint(n)
		}
		failed.cells = append(failed.cells, cell)
	}
	for _, g := range s.goals {
		l := line{scenario: s.title, goal: g, value: medianOf(rounds, on, g.of)}
		if bar >= 0 {
			l.ratios = within(rounds, on, bar, func(a, b sample) float64 { return g.of(a) / g.of(b) })
		}
		for _, name := range expressColumns {
			cell := "-"
			if i := index(name); i >= 0 {
				cell = fmt.Sprintf("%.*f", g.decimals, medianOf(rounds, i, g.of))
			}
			l.cells = append(l.cells, cell)
		}
		all = append(all, l)
	}
	return append(all, failed)
}
