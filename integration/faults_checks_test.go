//go:build trust && linux

package integration

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// checked are so many backends that do nothing but answer checks, and remember when they came.
type checked struct {
	addresses []string
	mu        sync.Mutex
	at        []time.Time
}

func startChecked(t *testing.T, n int) *checked {
	t.Helper()
	c := &checked{addresses: make([]string, n)}
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		now := time.Now()
		c.mu.Lock()
		c.at = append(c.at, now)
		c.mu.Unlock()
	})}
	t.Cleanup(func() { server.Close() })
	for i := range n {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.10.%d:0", i%250+1))
		if err != nil {
			t.Fatal(err)
		}
		c.addresses[i] = l.Addr().String()
		go func() { _ = server.Serve(l) }()
	}
	return c
}

// densest is how many checks there were since that time, and how many in the tenth of a second that had the most.
func (c *checked) densest(since time.Time) (all, densest int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.SortFunc(c.at, time.Time.Compare)
	from := 0
	for i, at := range c.at {
		if at.Before(since) {
			from = i + 1
			continue
		}
		all++
		for at.Sub(c.at[from]) > 100*time.Millisecond {
			from++
		}
		densest = max(densest, i-from+1)
	}
	return all, densest
}

// cpuTime is the time that a process has had.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond // ticks are of a hundredth of a second wherever Go runs on Linux
}

func measureChecks(t *testing.T) map[string]string {
	const n, duration = 1000, 10 * time.Second
	cells := make(map[string]string)
	for _, c := range contenders {
		if c.eager || strings.Contains(c.name, ",") {
			continue // checks are the same
		}
		backends := startChecked(t, n)
		all := strings.Join(backends.addresses, " ")
		var pid int
		switch {
		case c.ours:
			pid = startCaddy(t, "load_balancer "+all+" {\n name p\n health_check {\n http /\n interval 1s\n timeout 900ms\n }\n}").cmd.Process.Pid
		case c.name == "HAProxy":
			_, process := startHAProxyWith(t, haproxyWords{site: " option httpchk GET /", server: "check inter 1s"}, backends.addresses...)
			pid = process.Process.Pid
		default:
			pid = startCaddyConfig(t, strings.Replace(siteConfig("reverse_proxy "+all+" {\n health_uri /\n health_interval 1s\n}"), seamless, "", 1)).cmd.Process.Pid
		}
		takes(t.Context(), 3*time.Second) // until all have been checked
		begin, before := time.Now(), cpuTime(t, pid)
		takes(t.Context(), duration)
		share := float64(cpuTime(t, pid)-before) / float64(time.Since(begin))
		checks, densest := backends.densest(begin)
		cells[c.name] = fmt.Sprintf("%.1f %% of a core, %d checks in 10 s, %d in the densest 0.1 s", 100*share, checks, densest)
		if !c.ours {
			continue
		}
		if share > 0.1 {
			t.Errorf("%.1f %% of a core, want 10 %% at most", 100*share)
		}
		if checks < n*8 || densest > 3*checks/100 {
			t.Errorf("%d checks in %v, %d of them in a tenth of a second", checks, duration, densest)
		}
	}
	return cells
}
