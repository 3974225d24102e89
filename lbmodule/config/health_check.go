package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http/httpguts"

	"github.com/ballastlb/ballast/healthcheck"
)

// CheckTypes are the ways to check.
var CheckTypes = []string{"http", "tcp", "tls", "grpc"}

// HealthCheck is an active health check. Each backend is probed independently, by one probe at a time, over the transport that requests
// use. A backend that stays down is probed less and less often, at least once in six intervals. Backends whose address depends on the
// request are not checked.
type HealthCheck struct {
	// Switches the check off.
	Disabled bool `json:"disabled,omitempty"`

	// The kind of probe: `http` (a request), `tcp` (a connection), `tls` (a handshake) or `grpc` (a call of grpc.health.v1.Health/Check).
	// Default: http.
	Type string `json:"type,omitempty"`

	// Path and query of the request. Default: /.
	URI string `json:"uri,omitempty"`

	// The expected status: codes or classes such as 2xx. Default: 2xx.
	Status []string `json:"status,omitempty"`

	// The method of the request. Default: GET.
	Method string `json:"method,omitempty"`

	// Header fields of the request. Placeholders may be used, for example {http.reverse_proxy.active.target_upstream} for the backend's
	// address. `Host` sets the host. Default: none.
	Headers http.Header `json:"headers,omitempty"`

	// The body of the request. Default: none.
	Body string `json:"body,omitempty"`

	// A regular expression that the body of the answer must match. Default: none.
	ExpectBody string `json:"expect_body,omitempty"`

	// The number of bytes of the answer's body that are read. Default: 1 MiB.
	MaxSize int64 `json:"max_size,omitempty"`

	// Whether redirects are followed. Default: false, a redirect is judged by its own status.
	FollowRedirects bool `json:"follow_redirects,omitempty"`

	// The service that a gRPC check asks about. Default: the server as a whole.
	Service string `json:"service,omitempty"`

	// The port to probe instead of the backend's. It does not apply to backends at unix sockets. Default: the backend's.
	Port int `json:"port,omitempty"`

	// The address to probe for all backends, instead of the backend's own: a service that reports their health. It takes precedence over
	// port. Default: the backend's address.
	Upstream string `json:"upstream,omitempty"`

	// The transport of the probes, if it differs from that of requests. Default: that of requests.
	TransportRaw json.RawMessage `json:"transport,omitempty" caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`

	// The time from one probe to the next. Default: 5s.
	Interval caddy.Duration `json:"interval,omitempty"`

	// The time from one probe to the next while a change is pending; at most interval. Default: 1s.
	FastInterval caddy.Duration `json:"fast_interval,omitempty"`

	// The timeout of one probe, from its start to its verdict. Default: 2s, at most 80 % of interval.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// The number of consecutive probes that must pass until a backend that is down is up. Default: 2.
	Rise int `json:"rise,omitempty"`

	// The number of consecutive probes that must fail until a backend that is up is down. Default: 3.
	Fall int `json:"fall,omitempty"`

	// The state of a backend until its first probe, which alone decides: `check` (it gets no requests), `up` or `down`. Until any backend
	// has been probed, requests wait for at most a second. Default: check.
	Initial string `json:"initial,omitempty"`
}

// defaultInterval is the default time between probes.
const defaultInterval = 5 * time.Second

// WithDefaults returns the check with the defaults of all settings that are left out; nil if there is no check.
func (c *HealthCheck) WithDefaults() *HealthCheck {
	if c == nil || c.Disabled {
		return nil
	}
	filled := *c
	fill := func(field *caddy.Duration, standard time.Duration) {
		if *field == 0 {
			*field = caddy.Duration(standard)
		}
	}
	fill(&filled.Interval, defaultInterval)
	fill(&filled.FastInterval, time.Second)
	filled.FastInterval = min(filled.FastInterval, filled.Interval)
	fill(&filled.Timeout, min(2*time.Second, time.Duration(filled.Interval)*4/5))
	if filled.Type == "" {
		filled.Type = "http"
	}
	if filled.URI == "" {
		filled.URI = "/"
	}
	if filled.Method == "" {
		filled.Method = http.MethodGet
	}
	if filled.Rise == 0 {
		filled.Rise = 2
	}
	if filled.Fall == 0 {
		filled.Fall = 3
	}
	if filled.Initial == "" {
		filled.Initial = "check"
	}
	return &filled
}

// Thresholds returns the numbers of consecutive results that change a backend's state.
func (c *HealthCheck) Thresholds() healthcheck.Thresholds {
	return healthcheck.Thresholds{Rise: c.Rise, Fall: c.Fall}
}

// Key identifies the check of an address over a transport with this config: checks that send the same probes at the same times have equal
// keys. The thresholds are not part of it.
func (c *HealthCheck) Key(address string, transport json.RawMessage) string {
	same := *c
	same.Rise, same.Fall, same.Initial = 0, 0, ""
	same.TransportRaw = transport
	key, err := json.Marshal(struct {
		Address string
		Check   HealthCheck
	}{address, same})
	if err != nil {
		// Raw JSON that was read before can always be written.
		panic(err)
	}
	return string(key)
}

func (c *HealthCheck) check() error {
	if c == nil || c.Disabled {
		return nil
	}
	if c.Type != "" && !slices.Contains(CheckTypes, c.Type) {
		return fmt.Errorf("health_check: type %s: must be http, tcp, tls or grpc", c.Type)
	}
	if !slices.Contains([]string{"", "check", "up", "down"}, c.Initial) {
		return fmt.Errorf("health_check: initial %s: must be check, up or down", c.Initial)
	}
	for _, status := range c.Status {
		if _, err := ParseStatusRange(status); err != nil {
			return fmt.Errorf("health_check: status %s: %w", status, err)
		}
	}
	if c.Port < 0 || c.Port > 65535 {
		return InRange("health_check.port", c.Port)
	}
	if c.Upstream != "" {
		if err := ValidateAddress(c.Upstream); err != nil {
			return fmt.Errorf("health_check: upstream %s: %w", c.Upstream, err)
		}
	}
	if c.Interval > 0 && c.FastInterval > c.Interval {
		return fmt.Errorf("health_check: fast_interval %v: must be at most interval, which is %v", display(c.FastInterval), display(c.Interval))
	}
	return cmp.Or(
		c.checkKind(),
		c.checkRequest(),
		atLeast("health_check: interval", c.Interval, 0),
		atLeast("health_check: fast_interval", c.FastInterval, 0),
		atLeast("health_check: timeout", c.Timeout, 0),
		atLeast("health_check: rise", c.Rise, 0),
		atLeast("health_check: fall", c.Fall, 0),
		atLeast("health_check: max_size", c.MaxSize, 0),
	)
}

// checkWhole checks conditions that depend on more than one setting.
func (c *HealthCheck) checkWhole() error {
	if c == nil || c.Disabled || c.Interval != 0 || time.Duration(c.FastInterval) <= defaultInterval {
		return nil
	}
	return fmt.Errorf("health_check: fast_interval %v: must be at most interval, which is %v when it is left out", display(c.FastInterval), defaultInterval)
}

// checkKind checks that no settings of another kind of check are used.
func (c *HealthCheck) checkKind() error {
	http := c.Type == "" || c.Type == "http"
	for _, s := range []struct {
		word  string
		given bool
		fits  bool
	}{
		{"uri", c.URI != "", http},
		{"status", len(c.Status) > 0, http},
		{"method", c.Method != "", http},
		{"header", len(c.Headers) > 0, http},
		{"body", c.Body != "", http},
		{"expect_body", c.ExpectBody != "", http},
		{"max_size", c.MaxSize != 0, http},
		{"follow_redirects", c.FollowRedirects, http},
		{"service", c.Service != "", c.Type == "grpc"},
	} {
		if s.given && !s.fits {
			return fmt.Errorf("health_check: %s: must not be given for a check of kind %s", s.word, cmp.Or(c.Type, "http"))
		}
	}
	return nil
}

// checkRequest checks the settings of an HTTP check's request.
func (c *HealthCheck) checkRequest() error {
	if u, err := url.Parse(c.URI); err != nil || u.Host != "" {
		return fmt.Errorf("health_check: uri %s: must be a path, with a query or without", c.URI)
	}
	if c.Method != "" && !httpguts.ValidHeaderFieldName(c.Method) {
		return fmt.Errorf("health_check: method %q: must be an HTTP method", c.Method)
	}
	for name := range c.Headers {
		if !strings.Contains(name, "{") && !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("health_check: header %q: must be the name of a header field", name)
		}
	}
	if _, err := regexp.Compile(c.ExpectBody); err != nil {
		return fmt.Errorf("health_check: expect_body %q: must be a regular expression: %w", c.ExpectBody, err)
	}
	return nil
}

// ParseStatusRange parses a status code or a class such as 2xx.
func ParseStatusRange(status string) (healthcheck.StatusRange, error) {
	if class, ok := strings.CutSuffix(status, "xx"); ok && len(class) == 1 && class >= "1" && class <= "5" {
		first := int(class[0]-'0') * 100
		return healthcheck.StatusRange{First: first, Last: first + 99}, nil
	}
	code, err := strconv.Atoi(status)
	if err != nil || code < 100 || code > 599 {
		return healthcheck.StatusRange{}, fmt.Errorf("must be a status from 100 to 599 or a class such as 2xx")
	}
	return healthcheck.StatusRange{First: code, Last: code}, nil
}

// CheckTransport checks that a gRPC check can be made over a transport with this config.
func (c *HealthCheck) CheckTransport(transport json.RawMessage) error {
	if c == nil || c.Disabled || c.Type != "grpc" {
		return nil
	}
	if c.TransportRaw != nil {
		transport = c.TransportRaw
	}
	var t struct {
		Protocol string          `json:"protocol"`
		Versions []string        `json:"versions"`
		TLS      json.RawMessage `json:"tls"`
	}
	if len(transport) > 0 && json.Unmarshal(transport, &t) != nil {
		return nil // loading the transport reports the error
	}
	if t.Protocol != "" && t.Protocol != "http" {
		return nil // another transport may support gRPC
	}
	if len(t.Versions) == 0 {
		t.Versions = []string{"1.1", "2"}
	}
	needed := "h2c"
	if t.TLS != nil {
		needed = "2"
	}
	if slices.Contains(t.Versions, needed) || slices.Contains(t.Versions, "3") || slices.Contains(t.Versions, "h2c") {
		return nil
	}
	return fmt.Errorf("health_check: grpc: the transport speaks HTTP/1 only; it must have tls, or versions with h2c")
}
