package top

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ballastlb/ballast/command/api"
	"github.com/ballastlb/ballast/command/plain"
)

// Open returns the backend whose details are shown; ok is false if there is none. The next sample should have its events.
func (m *Model) Open() (pool, backend string, ok bool) {
	return m.selected.pool, m.selected.backend, m.open
}

// detail returns all details of a backend, in lines that are at most width wide.
func (m *Model) detail(r *row, width int) []Line {
	b, now := r.backend, m.last.Now
	const indent, names = 2, 12
	lines := []Line{{{Text: plain.Clean(b.Name), Style: plain.Bold}, text("  in pool " + r.pool.Name)}, {}}
	add := func(name, value string) {
		if value == "" {
			return
		}
		for i, piece := range plain.Wrap(plain.Clean(value), max(width-indent-names-1, 10)) {
			if i > 0 {
				name = ""
			}
			lines = append(lines, Line{text(fmt.Sprintf("%*s%-*s ", indent, "", names, name)), {Text: piece}})
		}
	}
	add("address", b.Address)
	add("state", fmt.Sprintf("%s: %s, health %s, breaker %s; for %s", plain.Status(b).Text, b.State, b.Health, b.Breaker, plain.Since(b.Since, now)))
	add("why", plain.Why(b, now))
	add("weight", plain.Weight(b))
	add("zone", b.Zone)
	if b.Backup > 0 {
		add("backup", fmt.Sprintf("level %d", b.Backup))
	}
	add("from", map[string]string{"config": "the config", "dynamic": "a source of backends", "api": "the API"}[b.Source])
	add("in flight", plain.InFlight(b))
	add("now", fmt.Sprintf("%s requests/s, errors %s", r.rate, r.rate.errors().Text))
	add("in all", fmt.Sprintf("%d requests, %d failed, %d retried elsewhere", b.Requests, b.Failures, b.Retries))
	add("bytes", fmt.Sprintf("%s in, %s out", plain.Bytes(b.BytesIn), plain.Bytes(b.BytesOut)))
	add("answers", codes(b))
	if l := b.LatencyMs; l != nil {
		add("latency", fmt.Sprintf("p50 %s, p95 %s, p99 %s", plain.Milliseconds(l.P50), plain.Milliseconds(l.P95), plain.Milliseconds(l.P99)))
	}
	add("last check", check(b.LastCheck, now))
	add("events", plain.None)
	if events, known := m.events(r); known && len(events) > 0 {
		lines = lines[:len(lines)-1]
		for i, e := range slices.Backward(events) {
			name := ""
			if i == len(events)-1 {
				name = "events"
			}
			add(name, e)
		}
	}
	return lines
}

// codes returns the numbers of answers by class.
func codes(b *api.Backend) string {
	var all []string
	for _, class := range slices.Sorted(maps.Keys(b.Codes)) {
		if n := b.Codes[class]; n > 0 {
			all = append(all, fmt.Sprintf("%s %d", class, n))
		}
	}
	return strings.Join(all, ", ")
}

// check returns the result of the last check, with its error.
func check(c *api.Check, now time.Time) string {
	if c == nil {
		return ""
	}
	said := plain.Checked(c) + ", " + plain.Since(c.Time, now) + " ago"
	if !c.OK && c.Error != "" {
		said += ": " + c.Error
	}
	return said
}

// events returns the events of a backend; known is false if the sample does not have them.
func (m *Model) events(r *row) (events []string, known bool) {
	if m.last.EventsOf != [2]string{r.pool.Name, r.backend.Name} {
		return nil, false
	}
	return m.last.Events, true
}
