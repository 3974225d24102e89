package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ballastlb/ballast/bench/openloop"
)

const (
	pairCount = 15
	pairRate  = 2000 // requests per second: enough for CPU time, which is counted in clock ticks
)

// pairSample is one measurement of one contender of a pair.
type pairSample struct{ p50, p99, cpu float64 }

// comparePairs compares peak_ewma with round_robin with healthy backends, repeatedly in alternating order.
func comparePairs(ctx context.Context, dir string, o options) error {
	var started processes
	defer started.stop()
	backends, err := startUsual(ctx, &started, dir)
	if err != nil {
		return err
	}
	policy := func(word string) kind { return caddyKind(word, o, "load_balancer", "lb_policy "+word) }
	pair, err := startKinds(&started, dir, []kind{policy("peak_ewma"), policy("round_robin")}, backends)
	if err != nil {
		return err
	}
	for _, c := range pair {
		if _, err := measurePaired(ctx, c, unevenWarmUp); err != nil {
			return err
		}
	}
	var rounds [pairCount][2]pairSample
	for r := range rounds {
		for k := range pair {
			i := k ^ r&1
			if rounds[r][i], err = measurePaired(ctx, pair[i], o.duration); err != nil {
				return err
			}
		}
	}
	fmt.Printf("\n| all answer in 10 ms, %d pairs | `peak_ewma` | `round_robin` | ratio | lowest and highest |\n|---|---|---|---|---|\n", pairCount)
	for _, figure := range []struct {
		title, unit string
		of          func(pairSample) float64
	}{
		{"p50", "ms", func(s pairSample) float64 { return s.p50 }},
		{"p99", "ms", func(s pairSample) float64 { return s.p99 }},
		{"CPU per request", "us", func(s pairSample) float64 { return s.cpu }},
	} {
		var ours, theirs, ratio []float64
		for _, r := range rounds {
			a, b := figure.of(r[0]), figure.of(r[1])
			ours, theirs, ratio = append(ours, a), append(theirs, b), append(ratio, a/b)
		}
		fmt.Printf("| %s | %.2f %s | %.2f %s | %.3f | %.3f to %.3f |\n", figure.title, median(ours), figure.unit, median(theirs), figure.unit,
			median(ratio), slices.Min(ratio), slices.Max(ratio))
	}
	return nil
}

func measurePaired(ctx context.Context, c contender, duration time.Duration) (pairSample, error) {
	before, err := usage(c.pid)
	if err != nil {
		return pairSample{}, err
	}
	got, err := openloop.Run(ctx, openloop.Options{URL: "http://" + c.address + "/", Rate: pairRate, Duration: duration, Timeout: unevenTimeout})
	if err != nil {
		return pairSample{}, err
	}
	after, err := usage(c.pid)
	if err != nil {
		return pairSample{}, err
	}
	if got.Failed() > 0 {
		return pairSample{}, fmt.Errorf("%s: %d of %d requests failed", c.name, got.Failed(), got.Sent)
	}
	return pairSample{
		p50: got.Quantile(0.5).Seconds() * 1000, p99: got.Quantile(0.99).Seconds() * 1000,
		cpu: float64((after.cpu - before.cpu).Microseconds()) / float64(got.Sent),
	}, nil
}
