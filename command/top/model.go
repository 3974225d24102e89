package top

import (
	"cmp"
	"slices"
	"strings"

	"github.com/ballastlb/ballast/command/api"
	"github.com/ballastlb/ballast/command/plain"
)

// Model is the state of the view. It is not safe for concurrent use.
type Model struct {
	Address string // of the admin endpoint
	Write   bool   // keys may change backends

	last    Sample
	rates   map[name]rate
	trouble string // why there is no newer sample

	filter   string
	order    order
	selected name
	top      int // index of the first visible row
	above    int // number of lines above the body in the last frame
	listed   int // number of lines of the body in the last frame

	skip    int  // lines of the details or the help above the visible ones
	more    bool // the details or the help have lines below the visible ones
	open    bool // the details of the selected backend are shown
	mode    mode
	pending *Change // the change to be confirmed
	message string  // about the last change, shown until the next key
}

// mode says what keys mean.
type mode uint8

const (
	browsing mode = iota
	filtering
	confirming
	helping
)

// order is the value that the backends of a pool are sorted by.
type order uint8

const (
	byName order = iota
	byState
	byInFlight
	byRequests
	byErrors
	byLatency
	orders
)

func (o order) String() string {
	return [...]string{"name", "state", "in flight", "req/s", "errors", "p99"}[o]
}

// Update takes a new sample.
func (m *Model) Update(s Sample) {
	m.rates = rates(m.last, s)
	m.last, m.trouble = s, ""
}

// Fail shows the error because of which there is no new sample.
func (m *Model) Fail(err error) { m.trouble = err.Error() }

// Say shows a message until the next key.
func (m *Model) Say(message string) { m.message = message }

// row is the heading of a pool, or one of its backends.
type row struct {
	pool    *api.Pool
	backend *api.Backend // nil for the heading
	rate    rate
}

func (r *row) name() name { return name{r.pool.Name, r.backend.Name} }

// rows returns the rows that match the filter, in order. With a filter, pools without a matching backend are left out.
func (m *Model) rows() []row {
	var all []row
	for i := range m.last.Pools {
		p := &m.last.Pools[i]
		var backends []row
		for j := range p.Backends {
			b := &p.Backends[j]
			if m.matches(p, b) {
				backends = append(backends, row{pool: p, backend: b, rate: m.rates[name{p.Name, b.Name}]})
			}
		}
		if len(backends) == 0 && m.filter != "" {
			continue
		}
		slices.SortStableFunc(backends, m.order.compare)
		all = append(append(all, row{pool: p}), backends...)
	}
	return all
}

func (m *Model) matches(p *api.Pool, b *api.Backend) bool {
	for _, text := range []string{p.Name, b.Name, b.Address, b.Zone, plain.Status(b).Text, b.Reason, b.Avoided} {
		if strings.Contains(strings.ToLower(text), strings.ToLower(m.filter)) {
			return true
		}
	}
	return false
}

// compare puts the most conspicuous backends first. Equal ones keep the order of the API, which is by name.
func (o order) compare(x, y row) int {
	switch o {
	case byState:
		return cmp.Compare(severity(x.backend), severity(y.backend))
	case byInFlight:
		return cmp.Compare(y.backend.InFlight, x.backend.InFlight)
	case byRequests:
		return cmp.Compare(y.rate.requests, x.rate.requests)
	case byErrors:
		return cmp.Compare(y.rate.failed, x.rate.failed)
	case byLatency:
		return cmp.Compare(p99(y.backend), p99(x.backend))
	default:
		return 0 // the API's order is by name
	}
}

// severity is lower for backends with worse states.
func severity(b *api.Backend) int {
	switch plain.Status(b).Style {
	case plain.Bad:
		return 0
	case plain.Doubtful:
		return 1
	default:
		return 2
	}
}

func p99(b *api.Backend) float64 {
	if b.LatencyMs == nil {
		return 0
	}
	return b.LatencyMs.P99
}

// cursor returns the index of the selected row, or of the first backend if the selected one is not listed; -1 if there are no backends.
func (m *Model) cursor(rows []row) int {
	first := -1
	for i := range rows {
		if rows[i].backend == nil {
			continue
		}
		if rows[i].name() == m.selected {
			return i
		}
		if first < 0 {
			first = i
		}
	}
	return first
}

// move moves the selection by a number of backends.
func (m *Model) move(by int) {
	rows := m.rows()
	backends := slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return r.backend == nil })
	at := m.cursor(rows)
	if at < 0 {
		return
	}
	at = slices.IndexFunc(backends, func(r row) bool { return r.name() == rows[at].name() })
	m.selected, m.skip = backends[min(max(at+by, 0), len(backends)-1)].name(), 0
}
