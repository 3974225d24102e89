package simulate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// Scenario describes the load on a pool, the behavior of its backends, and events during the simulation.
type Scenario struct {
	// Of two simulations with the same input, those with the same seed have the same result. Default: 1.
	Seed uint64 `json:"seed,omitempty"`

	// How many load balancers there are, each with a pool of its own over the same backends. Each request goes to one of them at random.
	// 1 to 1000. Default: 1.
	Balancers int `json:"balancers,omitempty"`

	// The time during which requests arrive that are counted. Up to 24h. Default: 60s, or the length of the log of arrivals.
	Duration caddy.Duration `json:"duration,omitempty"`

	// The time before that, during which requests arrive that are not counted. Default: 0.
	WarmUp caddy.Duration `json:"warm_up,omitempty"`

	Arrivals Arrivals `json:"arrivals"`

	// The number of clients. Each request is from one of them at random; sessions and hashing policies use it. Up to 10,000,000. Default:
	// 1000.
	Clients int `json:"clients,omitempty"`

	// The time after which a client gives up. Default: 30s.
	ClientTimeout caddy.Duration `json:"client_timeout,omitempty"`

	// The share of requests, 0 to 1, that must not be sent twice, as a POST. Default: 0.
	Writes float64 `json:"writes,omitempty"`

	// The time of an attempt besides the backend's work: that of the balancer itself and of the network. Default: 0.
	Network Times `json:"network"`

	// The number of backends if the pool names none. Their names are `b1`, `b2` and so on. 1 to 10,000.
	Count int `json:"count,omitempty"`

	// The behavior of backends. If several entries apply to the same backend, each changes the settings that it names.
	Backends []Change `json:"backends,omitempty"`

	// Changes of backends at times since the end of the warm-up.
	Events []Event `json:"events,omitempty"`
}

// Arrivals says when requests arrive. They are an open loop: arrivals do not depend on the answers to earlier requests.
type Arrivals struct {
	// Requests per second. Required, unless there is a log.
	Rate float64 `json:"rate,omitempty"`

	// `poisson`, at random; `constant`, evenly spaced; or `bursts`, several at a time. Default: poisson.
	Process string `json:"process,omitempty"`

	// The number of requests in a burst. Default: 10.
	Burst int `json:"burst,omitempty"`

	// An access log in Caddy's JSON format. Its requests arrive again at the same times. It replaces the settings above, and its clients
	// replace those of the scenario.
	Log string `json:"log,omitempty"`
}

// Times is a distribution of durations.
type Times struct {
	// The duration. Default: 0.
	Delay caddy.Duration `json:"delay,omitempty"`

	// The maximum of a uniformly random addition. Default: 0.
	Jitter caddy.Duration `json:"jitter,omitempty"`

	// Spreads the delay: it is the median of a lognormal distribution whose logarithm has this standard deviation, 0 to 3. Default: 0.
	Sigma float64 `json:"sigma,omitempty"`

	// The share of requests, 0 to 1, that take slow_delay instead. Default: 0.
	SlowRatio float64 `json:"slow_ratio,omitempty"`

	// How long those requests take.
	SlowDelay caddy.Duration `json:"slow_delay,omitempty"`

	// An access log in Caddy's JSON format. Durations are drawn from those of the backend's own attempts in it, or, if it names none, from those
	// of all requests. It replaces the settings above.
	Log string `json:"log,omitempty"`

	// Durations to draw from. They replace the settings above.
	Samples []caddy.Duration `json:"samples,omitempty"`
}

// Behavior is how a backend behaves.
type Behavior struct {
	// How long it works on a request.
	Times

	// The number of next requests that take slow_delay; it counts down. Default: 0.
	SlowNext int `json:"slow_next,omitempty"`

	// The number of requests that it works on at a time; others wait in its queue, first come, first served. Default: 0, any number.
	Workers int `json:"workers,omitempty"`

	// The maximum length of that queue; it answers further requests with 503. Default: 0, any length.
	Backlog int `json:"backlog,omitempty"`

	// The status of its answers. Default: 200.
	Status int `json:"status,omitempty"`

	// The share of requests, 0 to 1, that it answers with 503 instead. Default: 0.
	FailRatio float64 `json:"fail_ratio,omitempty"`

	// `up`; `down`: new connections are refused and existing ones break; or `stopped`: connections are accepted, but nothing is answered until
	// it is up again. Default: up.
	State string `json:"state,omitempty"`
}

// Change changes the behavior of backends.
type Change struct {
	// The name or address of a backend, or a pattern such as `10.0.1.*`. Default: `*`, all.
	Backend string `json:"backend,omitempty"`

	// The changed settings, as JSON of a [Behavior]. Others remain unchanged.
	Behavior json.RawMessage `json:"set,omitempty"`
}

// Event is a change at a time.
type Event struct {
	At caddy.Duration `json:"at"`
	Change
}

// Bounds of a scenario.
const (
	maxBalancers = 1000
	maxBackends  = 10_000
	maxMembers   = 1_000_000 // balancers times backends
	maxClients   = 10_000_000
	maxRequests  = 50_000_000
	maxDuration  = 24 * time.Hour
	maxRate      = 10_000_000
	maxSigma     = 3
	maxCount     = 1_000_000
)

// ReadScenario reads a scenario in JSON. Unknown fields are errors.
func ReadScenario(text []byte) (*Scenario, error) {
	s := new(Scenario)
	if err := strictly(text, s); err != nil {
		return nil, fmt.Errorf("scenario: %w", err)
	}
	return s, nil
}

// strictly decodes one JSON value and refuses unknown fields.
func strictly(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("data after the first value")
	}
	return nil
}

// complete checks the scenario and fills in its defaults.
func (s *Scenario) complete() error {
	s.Seed = cmp.Or(s.Seed, 1)
	s.Balancers = cmp.Or(s.Balancers, 1)
	s.Clients = cmp.Or(s.Clients, 1000)
	s.ClientTimeout = cmp.Or(s.ClientTimeout, caddy.Duration(30*time.Second))
	if s.Arrivals.Log == "" {
		s.Duration = cmp.Or(s.Duration, caddy.Duration(time.Minute))
	}
	if err := cmp.Or(
		within("balancers", float64(s.Balancers), 1, maxBalancers),
		within("clients", float64(s.Clients), 1, maxClients),
		within("count", float64(s.Count), 0, maxBackends),
		within("writes", s.Writes, 0, 1),
		span("duration", s.Duration, 0),
		span("warm_up", s.WarmUp, 0),
		span("client_timeout", s.ClientTimeout, caddy.Duration(time.Millisecond)),
		s.Arrivals.complete(),
		s.Network.check("network"),
	); err != nil {
		return err
	}
	if s.Arrivals.Log == "" {
		if n := s.Arrivals.Rate * time.Duration(s.Duration+s.WarmUp).Seconds(); n > maxRequests {
			return fmt.Errorf("arrivals: rate %v for %v: must be at most %d requests", s.Arrivals.Rate, time.Duration(s.Duration+s.WarmUp), maxRequests)
		}
	}
	for i, c := range s.Backends {
		if err := c.check(); err != nil {
			return fmt.Errorf("backends: entry %d: %w", i+1, err)
		}
	}
	for i, e := range s.Events {
		if err := cmp.Or(span("at", e.At, 0), e.check()); err != nil {
			return fmt.Errorf("events: entry %d: %w", i+1, err)
		}
	}
	slices.SortStableFunc(s.Events, func(a, b Event) int { return cmp.Compare(a.At, b.At) })
	return nil
}

func (a *Arrivals) complete() error {
	a.Process = cmp.Or(a.Process, "poisson")
	a.Burst = cmp.Or(a.Burst, 10)
	switch {
	case a.Log != "":
		if a.Rate != 0 {
			return fmt.Errorf("arrivals: log: cannot be combined with rate")
		}
		return nil
	case a.Rate <= 0 || a.Rate > maxRate:
		return fmt.Errorf("arrivals: rate %v: must be above 0 and at most %d requests per second", a.Rate, maxRate)
	case !slices.Contains([]string{"poisson", "constant", "bursts"}, a.Process):
		return fmt.Errorf("arrivals: process %q: must be poisson, constant or bursts", a.Process)
	}
	return within("arrivals: burst", float64(a.Burst), 1, maxCount)
}

func (t *Times) check(where string) error {
	return cmp.Or(
		span(where+": delay", t.Delay, 0),
		span(where+": jitter", t.Jitter, 0),
		span(where+": slow_delay", t.SlowDelay, 0),
		within(where+": sigma", t.Sigma, 0, maxSigma),
		within(where+": slow_ratio", t.SlowRatio, 0, 1),
	)
}

func (b *Behavior) check() error {
	if b.Status < 200 || b.Status > 599 {
		return fmt.Errorf("status %d: must be from 200 to 599", b.Status)
	}
	if !slices.Contains([]string{up, down, stopped}, b.State) {
		return fmt.Errorf("state %q: must be up, down or stopped", b.State)
	}
	for _, d := range b.Samples {
		if d < 0 {
			return fmt.Errorf("samples: %v: must not be negative", time.Duration(d))
		}
	}
	return cmp.Or(
		b.Times.check("set"),
		within("set: fail_ratio", b.FailRatio, 0, 1),
		within("set: slow_next", float64(b.SlowNext), 0, maxCount),
		within("set: workers", float64(b.Workers), 0, maxCount),
		within("set: backlog", float64(b.Backlog), 0, maxCount),
	)
}

// check checks a change as far as possible without the backends.
func (c *Change) check() error {
	if _, err := path.Match(c.Backend, ""); err != nil {
		return fmt.Errorf("backend %q: %w", c.Backend, err)
	}
	_, err := c.apply(usual)
	return err
}

// concerns reports whether the change applies to a backend.
func (c *Change) concerns(name, address string) bool {
	if c.Backend == "" || c.Backend == name || c.Backend == address {
		return true
	}
	byName, _ := path.Match(c.Backend, name)
	byAddress, _ := path.Match(c.Backend, address)
	return byName || byAddress
}

// apply returns the behavior b with the change made.
func (c *Change) apply(b Behavior) (Behavior, error) {
	if len(c.Behavior) == 0 {
		return b, nil
	}
	b.Samples = slices.Clone(b.Samples)
	if err := strictly(c.Behavior, &b); err != nil {
		return b, fmt.Errorf("set: %w", err)
	}
	return b, b.check()
}

func within(field string, value, least, most float64) error {
	if value >= least && value <= most {
		return nil
	}
	return fmt.Errorf("%s %v: must be from %v to %v", field, value, least, int64(most))
}

func span(field string, value, least caddy.Duration) error {
	if value >= least && time.Duration(value) <= maxDuration {
		return nil
	}
	return fmt.Errorf("%s %v: must be from %v to %v", field, time.Duration(value), time.Duration(least), maxDuration)
}
