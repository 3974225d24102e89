package api

import (
	"encoding/json"
	"time"
)

// Pool is a pool as the API shows it.
type Pool struct {
	Name        string    `json:"name"`
	Policy      string    `json:"policy"`
	State       string    `json:"state"` // ok, degraded, panic or down
	Usable      int       `json:"usable"`
	Panic       bool      `json:"panic"`
	Queue       int       `json:"queue"`
	RetryBudget float64   `json:"retry_budget"`
	Warnings    []string  `json:"warnings"`
	Backends    []Backend `json:"backends"`

	Requests uint64            `json:"requests"`  // finished ones
	Codes    map[string]uint64 `json:"codes"`     // answers to clients, by class
	Refused  map[string]uint64 `json:"refused"`   // errors that no backend sent, by cause
	BytesIn  uint64            `json:"bytes_in"`  // of bodies, to backends
	BytesOut uint64            `json:"bytes_out"` // of bodies, from backends
	Problems []Problem         `json:"problems"`  // the worst first

	Discovery []Discovery `json:"discovery"` // the sources of backends that are polled
	Subset    *Subset     `json:"subset"`    // nil if all backends are used
	Shadow    *Shadow     `json:"shadow"`    // nil without a shadow policy
}

// Problem is something wrong with the traffic of a pool.
type Problem struct {
	Severity string `json:"severity"` // bad or warn
	Backend  string `json:"backend"`  // "" for the pool as a whole
	What     string `json:"what"`
	Why      string `json:"why"`
}

// Canary is the state of a pool's canary.
type Canary struct {
	Names           []string   `json:"backends"`
	State           string     `json:"state"` // running, paused, finished or rolled_back
	Share           float64    `json:"share"`
	Reason          string     `json:"reason"`
	Since           time.Time  `json:"since"`
	NextShare       float64    `json:"next_share"`
	NextIn          string     `json:"next_in"` // "" if there is no next step
	Enough          float64    `json:"enough"`
	ErrorEvidence   *float64   `json:"error_evidence"`
	LatencyEvidence *float64   `json:"latency_evidence"`
	Canary          CanarySide `json:"canary"`
	Others          CanarySide `json:"others"`
}

// CanarySide is what was measured of one side.
type CanarySide struct {
	Backends  int     `json:"backends"`
	Requests  uint64  `json:"requests"`
	Failures  uint64  `json:"failures"`
	ErrorRate float64 `json:"error_rate"`
	P50       float64 `json:"p50_ms"`
	P95       float64 `json:"p95_ms"`
}

// Discovery is a source of backends.
type Discovery struct {
	Source  string    `json:"source"`
	OK      bool      `json:"ok"` // the backends in use are from its latest answer
	Since   time.Time `json:"since"`
	Error   string    `json:"error"`
	Targets int       `json:"targets"`
}

// Shadow compares a shadow policy with the pool's policy.
type Shadow struct {
	Policy     string         `json:"policy"`
	Agreed     uint64         `json:"agreed"`
	Differed   uint64         `json:"differed"`
	Agreement  float64        `json:"agreement"` // from 0 to 1
	Fairness   float64        `json:"fairness"`  // from 0 to 1
	ExpectedMs *ShadowLatency `json:"expected_ms"`
	TookMs     *ShadowLatency `json:"took_ms"`
}

// ShadowLatency are percentiles of the time that requests take.
type ShadowLatency struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

// Subset is the part of the backends that a balancer uses.
type Subset struct {
	Of      int `json:"of"`
	Chosen  int `json:"chosen"`
	Further int `json:"further"` // backends outside the subset that are used while none in it is usable
}

// Backend is a backend as the API shows it.
type Backend struct {
	Address         string  `json:"address"`
	Name            string  `json:"name"`
	Weight          int     `json:"weight"`
	EffectiveWeight float64 `json:"effective_weight"`
	MaxRequests     Cap     `json:"max_requests"`
	Limit           int     `json:"limit"` // the current limit of requests in flight, if MaxRequests is AutoCap
	Backup          Level   `json:"backup"`
	Zone            string  `json:"zone"`

	State    string     `json:"state"`   // ready, drain or maintenance
	Health   string     `json:"health"`  // up, down or unknown
	Breaker  string     `json:"breaker"` // closed, open or half_open
	Usable   bool       `json:"usable"`
	Reason   string     `json:"reason"`  // why it is not usable
	Avoided  string     `json:"avoided"` // why the policy gives it less than its share, "" if it does not
	Since    time.Time  `json:"since"`
	Until    *time.Time `json:"until"` // when an open breaker becomes half-open, or a timed state ends
	Removing bool       `json:"removing"`

	InFlight  int64             `json:"in_flight"`
	Requests  uint64            `json:"requests"`
	Failures  uint64            `json:"failures"`
	Retries   uint64            `json:"retries"`
	BytesIn   uint64            `json:"bytes_in"`
	BytesOut  uint64            `json:"bytes_out"`
	LatencyMs *Latency          `json:"latency_ms"`
	Codes     map[string]uint64 `json:"codes"`
	LastCheck *Check            `json:"last_check"`

	Source    string `json:"source"` // config, dynamic or api
	Added     *Mark  `json:"added"`  // nil unless it was added at run time
	Edits     []Edit `json:"edits"`
	Persisted *bool  `json:"persisted"` // in answers to changes: whether the change is stored
}

// Latency has percentiles of a backend's response times, in milliseconds.
type Latency struct {
	P50  float64 `json:"p50"`
	P95  float64 `json:"p95"`
	P99  float64 `json:"p99"`
	EWMA float64 `json:"ewma"`
}

// Check is the result of an active check.
type Check struct {
	Time  time.Time `json:"time"`
	OK    bool      `json:"ok"`
	Ms    float64   `json:"ms"`
	Code  int       `json:"code"`
	Error string    `json:"error"`
}

// Mark tells who made a change, why, when, and for how long.
type Mark struct {
	Since  time.Time  `json:"since"`
	Until  *time.Time `json:"until"`
	Owner  string     `json:"owner"`
	Reason string     `json:"reason"`
}

// Edit is a field that was changed at run time.
type Edit struct {
	Field  string          `json:"field"`
	Value  json.RawMessage `json:"value"`
	Config json.RawMessage `json:"config"` // the value in the config
	Mark
}

// Diff has the differences of a pool from its config.
type Diff struct {
	Pool      string       `json:"pool"`
	Changes   []Difference `json:"changes"`
	Caddyfile string       `json:"caddyfile"` // the lines for the Caddyfile that make the changes permanent
}

// Difference is a difference in one field of a backend, or in a backend as a whole.
type Difference struct {
	Backend string          `json:"backend"`
	Field   string          `json:"field"`
	Config  json.RawMessage `json:"config"`
	Running json.RawMessage `json:"running"`
	Until   *time.Time      `json:"until"`
	Added   bool            `json:"added"`
	Removed bool            `json:"removed"`
}

// Explanation tells which backend a request goes to, and why.
type Explanation struct {
	Pool       string      `json:"pool"`
	Policy     string      `json:"policy"`
	Key        string      `json:"key"`
	Request    *Live       `json:"request"` // the one that was asked for
	Chosen     string      `json:"chosen"`  // "" if it is not certain
	Way        string      `json:"way"`     // how the policy chooses
	Otherwise  string      `json:"otherwise"`
	Candidates []Candidate `json:"candidates"`
	Discovery  []Discovery `json:"discovery"` // the sources whose latest answer is bad or missing
	Live       []Live      `json:"live"`
}

// Candidate is a backend that could be chosen.
type Candidate struct {
	Backend         string   `json:"backend"`
	In              bool     `json:"in"`
	Reason          string   `json:"reason"` // why it is not in, or why it is avoided although it is in
	Score           *float64 `json:"score"`
	Share           *float64 `json:"share"` // of the requests, or of the draws
	Weight          int      `json:"weight"`
	EffectiveWeight float64  `json:"effective_weight"`
	InFlight        int64    `json:"in_flight"`
}

// Live is a request in flight.
type Live struct {
	ID       string    `json:"id"`
	Backend  string    `json:"backend"`
	Since    time.Time `json:"since"`
	Attempts int       `json:"attempts"`
}

// ExpressServer is the state of the express lane of a server.
type ExpressServer struct {
	Server     string            `json:"server"`
	Listen     []string          `json:"listen"`
	On         bool              `json:"on"`
	Reason     string            `json:"reason"` // why it is off
	Served     uint64            `json:"served"`
	HandedOver map[string]uint64 `json:"handed_over"` // by reason
	Routes     []ExpressRoute    `json:"routes"`
}

// ExpressRoute is a route that ends requests.
type ExpressRoute struct {
	Hosts   []string `json:"hosts"` // none for all
	Paths   []string `json:"paths"` // none for all
	Handler string   `json:"handler"`
	Pool    string   `json:"pool"`
	Served  bool     `json:"served"`
	Reason  string   `json:"reason"` // why it is not served
}

// Zone is a rate limit.
type Zone struct {
	Zone        string            `json:"zone"`
	Rate        string            `json:"rate"`
	Burst       int               `json:"burst"`
	Concurrency int               `json:"concurrency"`
	DryRun      bool              `json:"dry_run"`
	Keys        int               `json:"keys"`
	MaxKeys     int               `json:"max_keys"`
	Evictions   uint64            `json:"evictions"`
	Decisions   map[string]uint64 `json:"decisions"`
	Store       *Store            `json:"store"`
	Busiest     []Key             `json:"busiest"`
}

// Store is the shared store of a rate limit.
type Store struct {
	Available bool   `json:"available"`
	Errors    uint64 `json:"errors"`
}

// Key is the usage of a client of a rate limit.
type Key struct {
	Key          string   `json:"key"`
	Tokens       float64  `json:"tokens"`
	SharedTokens *float64 `json:"shared_tokens"`
	Burst        int      `json:"burst"`
	InFlight     int      `json:"in_flight"`
	Requests     int      `json:"requests"`
	Refused      int      `json:"refused"`
}

// Cap is a backend's limit of requests in flight: 0 for none, or AutoCap.
type Cap int

// AutoCap is a limit that is measured.
const AutoCap Cap = -1

// UnmarshalJSON reads a number, or "auto".
func (c *Cap) UnmarshalJSON(text []byte) error {
	if string(text) == `"auto"` {
		*c = AutoCap
		return nil
	}
	return json.Unmarshal(text, (*int)(c))
}

// Level is the level of a backup, 0 for none. The API writes the first level as true.
type Level int

// UnmarshalJSON reads a level, or true for the first.
func (l *Level) UnmarshalJSON(text []byte) error {
	var first bool
	if err := json.Unmarshal(text, &first); err == nil {
		if *l = 0; first {
			*l = 1
		}
		return nil
	}
	return json.Unmarshal(text, (*int)(l))
}

// Fleet is a node's view of the nodes that share its storage.
type Fleet struct {
	Nodes       []FleetNode       `json:"nodes"`
	Differences []FleetDifference `json:"differences"`
	More        int               `json:"more"` // differences that are not listed
	Error       string            `json:"error"`
}

// FleetNode is one of these nodes.
type FleetNode struct {
	Label   string      `json:"label"`
	This    bool        `json:"this"`
	State   string      `json:"state"` // alive or gone
	Silent  float64     `json:"silent"`
	Admin   string      `json:"admin"`
	Version string      `json:"version"`
	Started time.Time   `json:"started"`
	Config  string      `json:"config"`
	Alone   bool        `json:"alone"` // it does not describe its pools
	Pools   []FleetPool `json:"pools"`
}

// FleetPool is a pool as a node sees it.
type FleetPool struct {
	Name     string  `json:"name"`
	State    string  `json:"state"`
	Usable   int     `json:"usable"`
	Total    int     `json:"total"`
	Requests float64 `json:"requests"` // per second
	Failures float64 `json:"failures"` // per second
	InFlight int64   `json:"in_flight"`
}

// FleetDifference is a value in which nodes differ.
type FleetDifference struct {
	Kind    string       `json:"kind"`
	Pool    string       `json:"pool"`
	Backend string       `json:"backend"`
	Values  []FleetValue `json:"values"`
}

// FleetValue is one of the values, with the nodes that have it.
type FleetValue struct {
	Value string   `json:"value"`
	Nodes []string `json:"nodes"`
}
