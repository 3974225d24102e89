package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// scenario is a kind of request.
type scenario struct {
	name, title, path string
	script            string // for wrk; empty for plain GET requests
}

var scenarios = []scenario{
	{"get1k", "GET, answer of 1 KiB", "/1k", ""},
	{"get100k", "GET, answer of 100 KiB", "/100k", ""},
	{"post4k", "POST of 4 KiB, small answer", "/post", "wrk.method = 'POST'\nwrk.body = string.rep('x', 4096)\n"},
}

func (s scenario) writeScript(dir string) (string, error) {
	if s.script == "" {
		return "", nil
	}
	file := filepath.Join(dir, s.name+".lua")
	return file, os.WriteFile(file, []byte(s.script), 0o600)
}

// compare measures every contender in each round, in an order that is turned round every time, so that what
// the machine does meanwhile falls on all alike.
func (s scenario) compare(ctx context.Context, dir string, o options) error {
	var started processes
	defer started.stop()
	contenders, err := startAll(&started, dir, o)
	if err != nil {
		return err
	}
	script, err := s.writeScript(dir)
	if err != nil {
		return err
	}
	for _, c := range contenders {
		if _, err := measure(ctx, o, c, s, script, time.Second); err != nil {
			return err
		}
	}
	rounds := make([][]sample, o.rounds)
	for r := range rounds {
		rounds[r] = make([]sample, len(contenders))
		for k := range contenders {
			i := k
			if r%2 == 1 {
				i = len(contenders) - 1 - k
			}
			if rounds[r][i], err = measure(ctx, o, contenders[i], s, script, o.duration); err != nil {
				return err
			}
		}
		fmt.Printf("%s: round %d of %d\n", s.name, r+1, o.rounds)
	}
	fmt.Print(report(s, contenders, rounds))
	return nil
}

// sample is one measurement of one contender.
type sample struct {
	requests int
	errors   int           // answers that are not 2xx or 3xx, and broken connections
	cpu      time.Duration // user and system time of the contender's processes
	rate     float64       // requests per second
	p50, p99 time.Duration
	memory   int64 // resident bytes afterwards
}

// cpuPerRequest is the figure that depends least on what else runs on the machine.
func (s sample) cpuPerRequest() float64 { return float64(s.cpu.Microseconds()) / float64(s.requests) }

// measure drives c with wrk.
func measure(ctx context.Context, o options, c contender, s scenario, script string, duration time.Duration) (sample, error) {
	before, err := usage(c.pid)
	if err != nil {
		return sample{}, err
	}
	args := []string{"-t1", "-c" + strconv.Itoa(o.connections), "-d" + strconv.Itoa(int(duration.Seconds())) + "s", "--latency"}
	if script != "" {
		args = append(args, "-s", script)
	}
	out, err := exec.CommandContext(ctx, "wrk", append(args, "http://"+c.address+s.path)...).CombinedOutput()
	if err != nil {
		return sample{}, fmt.Errorf("wrk on %s: %w: %s", c.name, err, out)
	}
	after, err := usage(c.pid)
	if err != nil {
		return sample{}, err
	}
	result, err := parseWrk(string(out))
	if err != nil {
		return sample{}, fmt.Errorf("%s: %w", c.name, err)
	}
	result.cpu, result.memory = after.cpu-before.cpu, after.memory
	return result, nil
}

var (
	wrkRequests = regexp.MustCompile(`(\d+) requests in`)
	wrkRate     = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	wrkLatency  = regexp.MustCompile(`(?m)^\s+(50|99)%\s+([\d.]+(?:us|ms|s|m))$`)
	wrkStatus   = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)`)
	wrkSocket   = regexp.MustCompile(`Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
)

// parseWrk reads what wrk prints.
func parseWrk(out string) (sample, error) {
	var s sample
	requests, rate := wrkRequests.FindStringSubmatch(out), wrkRate.FindStringSubmatch(out)
	if requests == nil || rate == nil {
		return s, fmt.Errorf("cannot read what wrk printed: %q", out)
	}
	s.requests, _ = strconv.Atoi(requests[1])
	s.rate, _ = strconv.ParseFloat(rate[1], 64)
	for _, m := range wrkLatency.FindAllStringSubmatch(out, -1) {
		d, err := time.ParseDuration(m[2])
		if err != nil {
			return s, fmt.Errorf("latency %s: %w", m[2], err)
		}
		if m[1] == "50" {
			s.p50 = d
		} else {
			s.p99 = d
		}
	}
	for _, m := range append([][]string{wrkStatus.FindStringSubmatch(out)}, wrkSocket.FindStringSubmatch(out)) {
		for _, text := range m[min(1, len(m)):] {
			n, _ := strconv.Atoi(text)
			s.errors += n
		}
	}
	if s.requests == 0 {
		return s, fmt.Errorf("no request was answered: %q", out)
	}
	return s, nil
}
