package top

import (
	"cmp"
	"slices"
	"strings"

	"github.com/ballastlb/ballast/command/api"
	"github.com/ballastlb/ballast/command/plain"
)

// Model is what is shown, and how. It is not safe for concurrent use.
type Model struct {
	Address string // of the admin endpoint
	Write   bool   // keys may change backends

	last    Sample
	rates   map[name]rate
	trouble string // why there is no newer sample

	filter   string
	order    order
	selected name
	top      int // first row of those that are shown
	above    int // lines of the last frame above its first row
	listed   int // lines of the last frame that rows, or what stands in their place, have

	skip    int  // lines of the details or the help that were scrolled away
	more    bool // there are lines below those that are shown
	open    bool // the details of the selected backend are shown
	mode    mode
	pending *Change // to be confirmed
	message string  // of the last change, until the next key
}

// mode says what keys mean.
type mode uint8

const (
	looking mode = iota
	filtering
	confirming
	helping
)

// order is what the backends of a pool are sorted by.
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

// Fail says why there is no new sample.
func (m *Model) Fail(err error) { m.trouble = err.Error() }

// Say shows a message until the next key.
func (m *Model) Say(message string) { m.message = message }

// row is a pool's heading, or one of its backends.
type row struct {
	pool    *api.Pool
	backend *api.Backend // nil: heading
	rate    rate
}

func (r *row) name() name { return name{r.pool.Name, r.backend.Name} }

// rows are what the filter lets through, in order. A pool without such a backend is left out, unless it has none at all.
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

// compare puts the most remarkable first, and equals in order of their names.
func (o order) compare(x, y row) int {
	switch o {
	case byState:
		return cmp.Compare(remarkable(x.backend), remarkable(y.backend))
	case byInFlight:
		return cmp.Compare(y.backend.InFlight, x.backend.InFlight)
	case byRequests:
		return cmp.Compare(y.rate.requests, x.rate.requests)
	case byErrors:
		return cmp.Compare(y.rate.failed, x.rate.failed)
	case byLatency:
		return cmp.Compare(p99(y.backend), p99(x.backend))
	default:
		return 0 // as the API has them
	}
}

// remarkable is lower for backends that want to be looked at.
func remarkable(b *api.Backend) int {
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

// cursor is the index of the selected row; when that one has gone, of the first backend. -1 if there is none.
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

// move selects another backend, so many rows down or up.
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
