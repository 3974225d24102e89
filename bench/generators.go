package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sample is one measurement of one contender.
type sample struct {
	requests int
	errors   int           // answers that are not 2xx or 3xx, and broken connections
	cpu      time.Duration // user and system time of the contender's processes
	rate     float64       // requests per second
	p50, p99 time.Duration
	memory   int64 // resident bytes afterwards
}

// cpuPerRequest returns the figure that depends least on the other load of the machine.
func (s sample) cpuPerRequest() float64 { return float64(s.cpu.Microseconds()) / float64(s.requests) }

// generator puts the load of a scenario on the proxy at that address, and returns what the clients measured.
type generator func(ctx context.Context, address string, duration time.Duration) (sample, error)

// generator returns wrk, or h2load for HTTP/2.
func (s scenario) generator(dir string) (generator, error) {
	if s.h2 {
		return s.h2load(dir), nil
	}
	return s.wrk(dir)
}

// measure measures c under load.
func measure(ctx context.Context, c contender, load generator, duration time.Duration) (sample, error) {
	if c.log != nil {
		if err := c.log.empty(); err != nil {
			return sample{}, err
		}
	}
	before, err := usage(c.pid)
	if err != nil {
		return sample{}, err
	}
	result, err := load(ctx, c.address, duration)
	if err != nil {
		return sample{}, fmt.Errorf("%s: %w", c.name, err)
	}
	after, err := usage(c.pid)
	if err != nil {
		return sample{}, err
	}
	result.cpu, result.memory = after.cpu-before.cpu, after.memory
	if c.log != nil {
		if err := checkLog(c.log, result.requests); err != nil {
			return sample{}, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return result, nil
}

// seconds formats a duration for wrk and h2load.
func seconds(d time.Duration) string { return strconv.Itoa(int(d.Seconds())) }

func (s scenario) wrk(dir string) (generator, error) {
	scheme := "http://"
	if s.tls {
		scheme = "https://"
	}
	args := []string{"-t1", "-c" + strconv.Itoa(s.connections), "--latency"}
	if s.closing {
		args = append(args, "-H", "Connection: close")
	}
	if s.post > 0 {
		file := filepath.Join(dir, s.name+".lua")
		if err := os.WriteFile(file, fmt.Appendf(nil, "wrk.method = 'POST'\nwrk.body = string.rep('x', %d)\n", s.post), 0o600); err != nil {
			return nil, err
		}
		args = append(args, "-s", file)
	}
	return func(ctx context.Context, address string, duration time.Duration) (sample, error) {
		out, err := exec.CommandContext(ctx, "wrk", append(slices.Clip(args), "-d"+seconds(duration)+"s", scheme+address+s.path)...).CombinedOutput()
		if err != nil {
			return sample{}, fmt.Errorf("wrk: %w: %s", err, out)
		}
		return parseWrk(string(out))
	}, nil
}

var (
	wrkRequests = regexp.MustCompile(`(\d+) requests in`)
	wrkRate     = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	wrkLatency  = regexp.MustCompile(`(?m)^\s+(50|99)%\s+([\d.]+(?:us|ms|s|m))$`)
	wrkStatus   = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)`)
	wrkSocket   = regexp.MustCompile(`Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
)

// parseWrk parses the output of wrk.
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

// h2Streams is the number of concurrent requests on an HTTP/2 connection. The number of connections is divided by it.
const h2Streams = 4

func (s scenario) h2load(dir string) generator {
	log := filepath.Join(dir, "h2load.log")
	return func(ctx context.Context, address string, duration time.Duration) (sample, error) {
		if err := os.RemoveAll(log); err != nil { // h2load would append to it
			return sample{}, err
		}
		out, err := exec.CommandContext(ctx, "h2load", "-t1", "-c"+strconv.Itoa(max(s.connections/h2Streams, 1)), "-m"+strconv.Itoa(h2Streams),
			"-D"+seconds(duration), "--log-file="+log, "https://"+address+s.path).CombinedOutput()
		if err != nil {
			return sample{}, fmt.Errorf("h2load: %w: %s", err, out)
		}
		lines, err := os.ReadFile(log)
		if err != nil {
			return sample{}, err
		}
		return parseH2load(string(out), string(lines))
	}
}

var (
	h2Rate     = regexp.MustCompile(`finished in [\d.]+m?s, ([\d.]+) req/s`)
	h2Requests = regexp.MustCompile(`requests: \d+ total, \d+ started, (\d+) done, \d+ succeeded, (\d+) failed`)
	h2Protocol = regexp.MustCompile(`Application protocol: (\S+)`)
)

// parseH2load parses the output of h2load, and its log. Each line of the log is a request: its start, its status, and its duration in
// microseconds.
func parseH2load(out, log string) (sample, error) {
	var s sample
	rate, requests, protocol := h2Rate.FindStringSubmatch(out), h2Requests.FindStringSubmatch(out), h2Protocol.FindStringSubmatch(out)
	if rate == nil || requests == nil {
		return s, fmt.Errorf("cannot read what h2load printed: %q", out)
	}
	s.rate, _ = strconv.ParseFloat(rate[1], 64)
	s.requests, _ = strconv.Atoi(requests[1])
	s.errors, _ = strconv.Atoi(requests[2])
	if s.requests == 0 {
		return s, fmt.Errorf("no request was answered: %q", out)
	}
	if protocol == nil || protocol[1] != "h2" {
		return s, fmt.Errorf("h2load did not speak HTTP/2: %q", out)
	}
	var latencies []time.Duration
	for line := range strings.Lines(log) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			return s, fmt.Errorf("h2load's log: line %q has %d fields, want 3", line, len(fields))
		}
		us, err := strconv.Atoi(fields[2])
		if err != nil {
			return s, fmt.Errorf("h2load's log: line %q: %w", line, err)
		}
		latencies = append(latencies, time.Duration(us)*time.Microsecond)
	}
	if len(latencies) == 0 {
		return s, fmt.Errorf("h2load's log is empty, and it printed: %q", out)
	}
	slices.Sort(latencies)
	s.p50, s.p99 = latencies[len(latencies)*50/100], latencies[len(latencies)*99/100]
	return s, nil
}
