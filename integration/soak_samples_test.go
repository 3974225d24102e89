//go:build trust

package integration

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// soakSample is what the process holds at a moment of a soak.
type soakSample struct {
	cost
	at        time.Duration // from its start
	resident  int           // bytes
	anonymous int           // bytes of it that hold no part of a file: pages of the program come as they are used
	rest      bool          // nothing was going on
}

// sample takes one, if the last is ten seconds old, or at rest.
func (s *soaking) sample(rest bool) {
	s.t.Helper()
	at := time.Since(s.start)
	if n := len(s.samples); !rest && n > 0 && at-s.samples[n-1].at < 10*time.Second {
		return
	}
	s.asking.Lock()
	defer s.asking.Unlock()
	now := s.costNow()
	// Connections that are kept are closed after two seconds, and checks open and close theirs.
	for end := time.Now().Add(4 * time.Second); rest && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		now.goroutines = min(now.goroutines, int(s.metric("go_goroutines", "")))
		now.descriptors = min(now.descriptors, s.descriptors())
	}
	s.samples = append(s.samples, soakSample{now, at, s.memory("VmRSS"), s.memory("RssAnon"), rest})
}

// memory is how much the process has of that kind of memory, in bytes.
func (c *caddy) memory(kind string) int {
	c.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		c.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), kind+":")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		c.t.Fatalf("no %s in %s", kind, text)
	}
	kilobytes, err := strconv.Atoi(fields[0])
	if err != nil {
		c.t.Fatal(err)
	}
	return kilobytes << 10
}

// slope is by how much a value grows in ten minutes, by least squares.
func slope(samples []soakSample, value func(soakSample) int) float64 {
	var n, t, v, tt, tv float64
	for _, s := range samples {
		x, y := s.at.Seconds()/600, float64(value(s))
		n, t, v, tt, tv = n+1, t+x, v+y, tt+x*x, tv+x*y
	}
	if d := n*tt - t*t; d > 0 {
		return (n*tv - t*v) / d
	}
	return 0
}

// slopes shows what the process held, and by how much it grew. The test fails if that is too much: what is held at rest, when it has
// been warm for ten minutes.
func (s *soaking) slopes() string {
	s.t.Helper()
	var rest, load []soakSample
	for _, x := range s.samples {
		switch {
		case x.at < min(soakWarm, soakFor/3):
		case x.rest:
			rest = append(rest, x)
		default:
			load = append(load, x)
		}
	}
	if len(rest) == 0 || len(load) == 0 {
		s.t.Error("too few samples")
		return ""
	}
	judged := rest[len(rest)-1].at-rest[0].at >= 10*time.Minute-2*soakCycle
	var b strings.Builder
	fmt.Fprintf(&b, "| held by Caddy | first rest | last rest | slope at rest, in 10 minutes | under load | most |\n|---|---|---|---|---|---|\n")
	for _, row := range []struct {
		name  string
		value func(soakSample) int
		most  float64
	}{
		{"heap after a collection, KB", func(x soakSample) int { return x.heap >> 10 }, soakSlope >> 10},
		{"resident memory, KB", func(x soakSample) int { return x.resident >> 10 }, soakSlope >> 10},
		{"that of it without files, KB", func(x soakSample) int { return x.anonymous >> 10 }, soakSlope >> 10},
		{"goroutines", func(x soakSample) int { return x.goroutines }, soakFlat},
		{"descriptors", func(x soakSample) int { return x.descriptors }, soakFlat},
	} {
		grows := slope(rest, row.value)
		fmt.Fprintf(&b, "| %s | %d | %d | %+.1f | %+.1f | %+.0f |\n", row.name, row.value(rest[0]), row.value(rest[len(rest)-1]), grows, slope(load, row.value), row.most)
		if judged && grows > row.most {
			s.t.Errorf("%s grow by %.1f in ten minutes, want %.0f at most", row.name, grows, row.most)
		}
	}
	if s.t.Failed() {
		_, stacks := s.askAdmin("GET", "/debug/pprof/goroutine?debug=1")
		s.t.Logf("goroutines:\n%s", stacks[:min(len(stacks), 6000)])
	}
	if !judged {
		b.WriteString("(too short to judge slopes)\n")
	}
	return b.String()
}
