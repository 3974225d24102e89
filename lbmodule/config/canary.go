package config

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/caddyapp"
	"github.com/ballastlb/ballast/lbmodule/canary"
)

// Canary gives a share of the clients to some of the backends, and all others to the rest. The share grows by steps. It becomes 0 when these
// backends have more errors, or take longer, than is tolerated.
type Canary struct {
	// The backends that are the canary: names, addresses or zones. Required.
	Backends []string `json:"backends,omitempty"`

	// The share of the clients that the canary gets at first, up to 1. Required.
	Share float64 `json:"share,omitempty"`

	// How clients are identified: `client_ip`, or a `header` or `cookie`, whose name is in `name`. Requests without it go to the other
	// backends. Default: client_ip.
	By string `json:"by,omitempty"`

	// The name of the header field or the cookie.
	Name string `json:"name,omitempty"`

	// How the share grows. Default: not at all.
	Steps []CanaryStep `json:"steps,omitempty"`

	// When the canary is rolled back. Default: when it is worse than the defaults tolerate.
	Guard *CanaryGuard `json:"guard,omitempty"`
}

// CanaryStep is a step of a canary.
type CanaryStep struct {
	// The share of the clients from then on, up to 1.
	Share float64 `json:"share,omitempty"`

	// How long the previous share lasts.
	After caddy.Duration `json:"after,omitempty"`
}

// CanaryGuard rolls back a canary that is worse than the other backends.
type CanaryGuard struct {
	// Switches the guard off.
	Disabled bool `json:"disabled,omitempty"`

	// Whether errors are compared: 5xx, failed gRPC calls, no answer or an incomplete one. Default: true.
	Errors *bool `json:"errors,omitempty"`

	// How many more errors are tolerated, as a share of those of the rest. Default: 0.1.
	MoreErrors float64 `json:"more_errors,omitempty"`

	// Whether the time to good answers is compared. Default: true; false with `hedge`, which cuts off slow requests.
	Latency *bool `json:"latency,omitempty"`

	// How much longer answers may take, as a share of the time at the other backends. Default: 0.25.
	Slower float64 `json:"slower,omitempty"`
}

const (
	defaultMoreErrors = 0.1
	defaultSlower     = 0.25

	// maxCanaryBackends and maxCanarySteps bound the lists of a canary.
	maxCanaryBackends = 1024
	maxCanarySteps    = 100
)

// check checks what can be checked without the backends.
func (c *Canary) check() error {
	if c == nil {
		return nil
	}
	switch n := len(c.Backends); {
	case n == 0:
		return errors.New("canary: backends: none given; must be names, addresses or zones of backends")
	case n > maxCanaryBackends:
		return fmt.Errorf("canary: backends: %d given: must be at most %d", n, maxCanaryBackends)
	case len(c.Steps) > maxCanarySteps:
		return fmt.Errorf("canary: steps: %d given: must be at most %d", len(c.Steps), maxCanarySteps)
	}
	for i, name := range c.Backends {
		if name == "" {
			return errors.New("canary: backends: one is empty; must be a name, an address or a zone")
		}
		if slices.Contains(c.Backends[:i], name) {
			return fmt.Errorf("canary: %s: given twice", name)
		}
	}
	if err := cmp.Or(c.checkKey(), InRange("canary.share", c.Share)); err != nil {
		return err
	}
	share := c.Share
	for _, step := range c.Steps {
		if err := cmp.Or(InRange("canary.steps.share", step.Share), InRange("canary.steps.after", step.After)); err != nil {
			return err
		}
		if step.Share <= share {
			return fmt.Errorf("canary: step %s: must be more than the previous share, %s", percent(step.Share), percent(share))
		}
		share = step.Share
	}
	return c.Guard.check()
}

func percent(share float64) string { return fmt.Sprintf("%g%%", 100*share) }

func (c *Canary) checkKey() error {
	switch c.By {
	case "", "client_ip":
		if c.Name != "" {
			return fmt.Errorf("canary: name %s: must not be given without by header or by cookie", c.Name)
		}
	case "header", "cookie":
		if !httpguts.ValidHeaderFieldName(c.Name) {
			return fmt.Errorf("canary: by %s %q: must be the name of a %s", c.By, c.Name, c.By)
		}
	default:
		return fmt.Errorf("canary: by %s: must be client_ip, header or cookie", c.By)
	}
	return nil
}

func (g *CanaryGuard) check() error {
	if g == nil {
		return nil
	}
	off := func(b *bool) bool { return g.Disabled || b != nil && !*b }
	switch {
	case g.Disabled && (g.Errors != nil || g.Latency != nil):
		return errors.New("canary: guard: must not be off and have settings")
	case off(g.Errors) && g.MoreErrors != 0:
		return errors.New("canary: guard: more_errors: has no effect, because errors are not compared")
	case off(g.Latency) && g.Slower != 0:
		return errors.New("canary: guard: slower: has no effect, because latencies are not compared")
	}
	if g.MoreErrors != 0 {
		if err := InRange("canary.guard.more_errors", g.MoreErrors); err != nil {
			return err
		}
	}
	if g.Slower != 0 {
		return InRange("canary.guard.slower", g.Slower)
	}
	return nil
}

// Resolve returns the canary with placeholders replaced; nil for none. all are the pool's backends, nil if not all are known.
func (c *Canary) Resolve(all []Backend) (*Canary, error) {
	if c == nil {
		return nil, nil
	}
	filled, environment := *c, caddy.NewReplacer()
	filled.Backends = nil
	for _, word := range c.Backends {
		filled.Backends = append(filled.Backends, environment.ReplaceKnown(word, ""))
	}
	if err := filled.check(); err != nil || all == nil {
		return &filled, err
	}
	return &filled, filled.CheckBackends(all)
}

// Matches reports whether the backend belongs to the canary.
func (c *Canary) Matches(name, address, zone string) bool {
	return slices.ContainsFunc(c.Backends, func(word string) bool { return word == name || word == address || word == zone })
}

// Run returns the settings of the canary's run, with defaults for those that are left out.
func (c *Canary) Run(hedged bool) canary.Settings {
	guard := CanaryGuard{}
	if c.Guard != nil {
		guard = *c.Guard
	}
	on := func(b *bool, otherwise bool) bool {
		if b != nil {
			otherwise = *b
		}
		return otherwise && !guard.Disabled
	}
	s := canary.Settings{
		Share: c.Share, Errors: on(guard.Errors, true), Latency: on(guard.Latency, !hedged),
		MoreErrors: cmp.Or(guard.MoreErrors, defaultMoreErrors), Slower: cmp.Or(guard.Slower, defaultSlower),
	}
	for _, step := range c.Steps {
		s.Steps = append(s.Steps, canary.Step{Share: step.Share, After: time.Duration(step.After)})
	}
	return s
}

// CheckCanary checks the canary against the other settings: there must be backends on both sides, this balancer must use all of them, and
// the policy and hedging must be compatible.
func (s *Settings) CheckCanary(rp *reverseproxy.Handler, backends []*Backend) error {
	if s.Canary == nil {
		return nil
	}
	if s.Subset != nil {
		return caddyapp.About(errors.New("canary: cannot be combined with subset, which may leave a balancer without the canary's backends, or the others"),
			"canary", "subset")
	}
	if guard := s.Canary.Guard; guard != nil && guard.Latency != nil && *guard.Latency && s.Hedge.Enabled() {
		return caddyapp.About(errors.New("canary: guard: latency on: cannot be combined with hedge, which cuts off slow answers"), "canary", "hedge")
	}
	if lb := rp.LoadBalancing; lb != nil {
		var policy struct {
			Name   string `json:"policy"`
			Strict bool   `json:"strict"`
		}
		if json.Unmarshal(lb.SelectionPolicyRaw, &policy) == nil && policy.Strict {
			return caddyapp.About(fmt.Errorf("canary: lb_policy %s: must not be strict: a session's backend and its client may be on different sides",
				strings.TrimPrefix(policy.Name, "lb_")), "canary", "lb_policy")
		}
	}
	var all []Backend
	for _, u := range rp.Upstreams {
		all = append(all, Backend{Address: u.Dial})
	}
	for _, b := range backends {
		all = append(all, *b)
	}
	template := slices.ContainsFunc(all, func(b Backend) bool { return IsTemplate(b.Address) })
	if template || rp.DynamicUpstreamsRaw != nil {
		return nil
	}
	return caddyapp.About(s.Canary.CheckBackends(all), "canary")
}

// CheckBackends checks that some of the backends belong to the canary, but not all, and that each word matches one.
func (c *Canary) CheckBackends(all []Backend) error {
	if c == nil {
		return nil
	}
	n := 0
	for _, b := range all {
		if c.Matches(b.Name, b.Address, b.Zone) {
			n++
		}
	}
	for _, word := range c.Backends {
		named := slices.ContainsFunc(all, func(b Backend) bool { return word == b.Name || word == b.Address || word == b.Zone })
		if !named {
			return fmt.Errorf("canary: %s: must be the name, address or zone of a backend%s", word, DidYouMean(word, namesOf(all)...))
		}
	}
	if n == len(all) {
		return errors.New("canary: backends: the canary has all of them; there must be others to compare it with")
	}
	return nil
}

func namesOf(all []Backend) (names []string) {
	for _, b := range all {
		for _, name := range []string{b.Name, b.Address, b.Zone} {
			if name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}
