package main

import (
	"syscall"
	"time"
)

// Settings of healthy backends.
const (
	usual = `{"delay": "10ms"}`
	quick = `{"delay": "500us"}`
)

const (
	usualRate = 400
	quickRate = 150 // for three backends with quick answers: low enough to measure several contenders together
	tailRate  = 2500

	outlierFrom = 500 * time.Millisecond // only the outlier of a second takes longer
	phaseFor    = 8 * time.Second
	stoppedFor  = 8 * time.Second
)

// alike returns the settings of n backends: others for the first ones, settings for the rest.
func alike(n int, settings string, others ...string) []string {
	for len(others) < n {
		others = append(others, settings)
	}
	return others
}

var unevenScenarios = []unevenScenario{
	{
		name: "healthy", title: "all answer in 10 ms",
		backends: alike(5, usual), rate: usualRate,
		columns: []column{median50, tail99, tail999, itsShare},
	},
	{
		name: "late", title: "one answers 300 ms later",
		backends: alike(5, usual, `{"delay": "310ms"}`), rate: usualRate,
		columns: []column{median50, tail99, tail999, itsShare},
	},
	{
		name: "two", title: "two answer 300 ms later",
		backends: alike(5, usual, `{"delay": "310ms"}`, `{"delay": "310ms"}`), rate: usualRate,
		columns: []column{median50, tail99, tail999, shareOfTwo},
	},
	{
		name: "all", title: "all become 300 ms slower",
		backends: alike(5, usual), rate: usualRate, duration: 10 * time.Second,
		events:  []event{{0, changeAll(`{"delay": "310ms"}`)}},
		columns: []column{median50, tail99, tail999, shares},
	},
	{
		name: "slow", title: "one takes ten times as long",
		backends: alike(5, usual, `{"delay": "100ms"}`), rate: usualRate,
		columns: []column{median50, tail99, tail999, itsShare},
	},
	{
		name: "refusing", title: "one answers 429 at once",
		backends: alike(5, usual, `{"delay": "0s", "status": 429}`), rate: usualRate,
		columns: []column{refused, tail99Served, tail99All, itsShare},
	},
	{
		name: "failing", title: "one begins to answer 500 at once; `breaker off`",
		backends: alike(5, usual), options: []string{"breaker off"}, rate: usualRate,
		events:  []event{{0, changeFirst(`{"delay": "0s", "status": 500}`)}},
		columns: []column{failedLater, failedAtFirst, itsShare},
	},
	{
		name: "outlier", title: "one answer takes 1 s, all others 0.5 ms",
		backends: alike(3, quick), rate: quickRate, duration: 30 * time.Second, together: 3,
		events:  []event{{0, changeFirst(`{"slow_next": 1, "slow_delay": "1s"}`)}},
		columns: []column{secondsAfterOutlier, halfAfterOutlier, tail99},
	},
	{
		name: "phase", title: "one takes 2 s more for 8 s",
		backends: alike(3, quick), rate: quickRate, duration: phaseFor + 30*time.Second, together: 3,
		events:  []event{{0, changeFirst(`{"delay": "2s"}`)}, {phaseFor, changeFirst(quick)}},
		columns: []column{halfAfterPhase, evenAfterPhase, tail99},
	},
	{
		name: "pages", title: "2 % of all answers take 400 ms, the others 0.5 ms",
		backends: alike(3, `{"delay": "500us", "slow_ratio": 0.02, "slow_delay": "400ms"}`),
		rate:     quickRate, duration: 40 * time.Second, together: 3,
		columns: []column{anyTenSeconds, tail99, tail999},
	},
	{
		name: "heavy", title: "lognormal answer times, median 2 ms, sigma 1.5",
		backends: alike(3, `{"delay": "2ms", "sigma": 1.5}`),
		rate:     quickRate, duration: 40 * time.Second, together: 3,
		columns: []column{anyTenSeconds, tail99, tail999},
	},
	{
		name: "tail", title: "one of five takes 1 s for one request in a hundred",
		backends: alike(5, usual, `{"delay": "10ms", "slow_ratio": 0.01, "slow_delay": "1s"}`),
		rate:     tailRate, duration: 8 * time.Second, // forty slow answers in an even share
		columns: []column{median50, tail99, tail999, above, itsShare, itsShareOfFair},
	},
	{
		name: "tail3", title: "one of three takes 1 s for one request in a hundred",
		backends: alike(3, quick, `{"delay": "500us", "slow_ratio": 0.01, "slow_delay": "1s"}`),
		rate:     quickRate, duration: 40 * time.Second, together: 3, // twenty slow answers in an even share
		columns: []column{median50, tail99, tail999, above, itsShare, itsShareOfFair},
	},
	{
		name: "mixed-slots", title: "weights 5, 3, 2; so many answers of 10 ms at a time",
		backends: []string{`{"delay": "10ms", "workers": 5}`, `{"delay": "10ms", "workers": 3}`, `{"delay": "10ms", "workers": 2}`},
		weights:  []int{5, 3, 2}, rate: quickRate, duration: 20 * time.Second, together: 3,
		columns: []column{shares, ofWeights, median50, tail99},
	},
	{
		name: "mixed-speed", title: "weights 5, 3, 2; answers in 6, 10 and 15 ms",
		backends: []string{`{"delay": "6ms"}`, `{"delay": "10ms"}`, `{"delay": "15ms"}`},
		weights:  []int{5, 3, 2}, rate: quickRate, duration: 20 * time.Second, together: 3,
		columns: []column{shares, ofWeights, median50, tail99},
	},
	{
		// The mean of the response times is 1.41 times their median, so the means are 20, 10 and 10 ms, and the capacity is 250 answers a
		// second.
		name: "busy", title: "one answer at a time, one of three half as fast; 80 % of what they can give",
		backends: alike(3, `{"delay": "7.07ms", "sigma": 0.83, "workers": 1}`, `{"delay": "14.14ms", "sigma": 0.83, "workers": 1}`),
		rate:     200, duration: 40 * time.Second, together: 3,
		columns: []column{median50, tail99, tail999, shares},
	},
	{
		name: "stopped", title: "one of three stopped for 8 s, 1,000 requests per second",
		backends: alike(3, quick), rate: 1000, duration: stoppedFor + 2*time.Second,
		events:  []event{{0, signalFirst(syscall.SIGSTOP)}, {stoppedFor, signalFirst(syscall.SIGCONT)}},
		columns: []column{held, notServed, median50, tail99},
	},
}
