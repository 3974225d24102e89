package ratelimit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/caddyapp"
	"github.com/ballastlb/ballast/ratelimit/bucket"
	"github.com/ballastlb/ballast/ratelimit/redisstore"
)

// Settings are the settings of a limit.
type Settings struct {
	// The name of the set of buckets: in metrics, in the API, in answers to refused requests, and over config reloads. Handlers with equal
	// settings may share a name, and then share the buckets. Letters, digits and `._:/@~+-`, at most 64. Limits that a fleet shares should
	// be named. Default: derived from the settings.
	Zone string `json:"zone,omitempty"`

	// How many requests a client may make on average: a number per `s`, `m` or `h`, such as `100/s`. Default: no limit of the rate; a limit
	// of the concurrency is required then.
	Rate string `json:"rate,omitempty"`

	// How many requests a client may make at once after a pause. Default: what the rate allows in a second, at least 1.
	Burst int `json:"burst,omitempty"`

	// How many requests of a client may be in flight, WebSockets and other streams included. Each Caddy counts by itself, also
	// with `redis`. Default: no limit.
	Concurrency int `json:"concurrency,omitempty"`

	// What tells clients apart. Placeholders may be used; `{http.vars.client_ip}` stands for the client's range of addresses. A request for
	// which the key is empty is limited by its address. Default: the address.
	Key string `json:"key,omitempty"`

	// How many bits of an IPv6 address tell clients apart, 1 to 128. Default: 64.
	IPv6Prefix int `json:"ipv6_prefix,omitempty"`

	// Whether the /56 and the /48 of an IPv6 client are charged as well, with 4 and 16 times the limits. Default: they are.
	IPv6Tiers *IPv6Tiers `json:"ipv6_tiers,omitempty"`

	// How many clients are kept in memory at most, at less than 250 bytes each. Full buckets are evicted first, and a client that would be
	// refused just now never. While no client can be evicted, new ones share a bucket. Default: 262144.
	MaxKeys int `json:"max_keys,omitempty"`

	// Addresses and ranges that are not limited.
	Exempt []string `json:"exempt,omitempty"`

	// Whether to decide and count only, and refuse nothing. Default: false.
	DryRun bool `json:"dry_run,omitempty"`

	// A store that a fleet shares. Default: none, each Caddy limits by itself.
	Redis *Redis `json:"redis,omitempty"`
}

// IPv6Tiers are the larger ranges that an IPv6 client is charged to.
type IPv6Tiers struct {
	// Whether they are not charged.
	Disabled bool `json:"disabled,omitempty"`
}

// Redis is a Redis or Valkey that keeps the buckets of a fleet.
type Redis struct {
	// The address: `redis://[user:password@]host:port/db`, `rediss://` over TLS, `unix:///path`, `redis+cluster://` and
	// `redis+sentinel://...?master_name=<name>`, the latter two with more addresses as `addr=host:port`. Required.
	URL string `json:"url"`

	// How long a request waits for a decision. Default: 50ms.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// What happens to requests while the store does not answer: `local` makes each Caddy limit by itself, `allow` lets all pass, `deny`
	// refuses all. Default: local.
	OnError string `json:"on_error,omitempty"`

	// The key of the hash that client keys are hashed with before they are sent; the same for the whole fleet. Default: derived from the
	// password in the URL.
	Secret string `json:"secret,omitempty"`
}

const (
	defaultMaxKeys    = 262144
	defaultIPv6Prefix = 64
	defaultTimeout    = 50 * time.Millisecond

	maxFilling = 366 * 24 * time.Hour
)

// Ranges are the ranges of the numbers in settings. 16,777,216 clients take 4 GB. The table in docs/rate-limits.md has the same.
var Ranges = caddyapp.Ranges{
	caddyapp.Number("burst", 1, 1<<30),
	caddyapp.Number("concurrency", 1, 1<<20),
	caddyapp.Number("ipv6_prefix", 1, 128),
	caddyapp.Number("max_keys", 1, 1<<24),
	caddyapp.Duration("redis.timeout", time.Millisecond, 10*time.Second),
}

// The values of `on_error`.
const (
	onErrorLocal = "local"
	onErrorAllow = "allow"
	onErrorDeny  = "deny"
)

var validZone = regexp.MustCompile(`^[A-Za-z0-9._:/@~+-]{1,64}$`)

// Check returns an error for the first setting that is wrong: its name, its value, the rule. Settings may still be missing.
func (s *Settings) Check() error {
	if s.Zone != "" && !validZone.MatchString(s.Zone) {
		return fmt.Errorf("zone %s: must consist of letters, digits and ._:/@~+-, at most 64", s.Zone)
	}
	perSecond, err := s.perSecond()
	if err != nil {
		return err
	}
	if err := Ranges.Check("", s); err != nil {
		return err
	}
	if perSecond > 0 && float64(s.Burst)/perSecond > maxFilling.Seconds() {
		return fmt.Errorf("burst %d: must be at most what the rate %s allows in a year", s.Burst, s.Rate)
	}
	if _, err := s.exempt(); err != nil {
		return err
	}
	return s.Redis.check()
}

// CheckWhole is Check for settings that are complete.
func (s *Settings) CheckWhole() error {
	if err := s.Check(); err != nil {
		return err
	}
	if s.Rate == "" && s.Concurrency == 0 {
		return fmt.Errorf("rate: missing; there must be a rate or a concurrency")
	}
	if s.Rate == "" && s.Burst != 0 {
		return caddyapp.About(fmt.Errorf("burst %d: has no effect without a rate", s.Burst), "burst")
	}
	if s.Rate == "" && s.Redis != nil {
		return caddyapp.About(fmt.Errorf("redis: has no effect without a rate; each Caddy counts concurrency itself"), "redis")
	}
	return nil
}

func (r *Redis) check() error {
	if r == nil {
		return nil
	}
	if !slices.Contains([]string{"", onErrorLocal, onErrorAllow, onErrorDeny}, r.OnError) {
		return fmt.Errorf("redis: on_error %s: must be local, allow or deny", r.OnError)
	}
	if strings.Contains(r.URL, "{env.") || strings.Contains(r.URL, "{file.") {
		return nil // the placeholder can be replaced only where the config is loaded, and the URL is checked there
	}
	return redisstore.Check(r.URL)
}

// filledIn replaces placeholders of the environment.
func filledIn(value string) string { return caddy.NewReplacer().ReplaceKnown(value, "") }

// perSecond returns the rate per second, 0 for none.
func (s *Settings) perSecond() (float64, error) {
	if s.Rate == "" {
		return 0, nil
	}
	number, unit, found := strings.Cut(filledIn(s.Rate), "/")
	seconds := map[string]float64{"s": 1, "m": 60, "h": 3600}[unit]
	if !found || seconds == 0 {
		return 0, fmt.Errorf("rate %s: must be a number per s, m or h, such as 100/s", s.Rate)
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !(n >= 0.001 && n <= 1e9) {
		return 0, fmt.Errorf("rate %s: must be from 0.001 to 1000000000 per s, m or h", s.Rate)
	}
	return n / seconds, nil
}

// limits returns the limits of a key, with the defaults.
func (s *Settings) limits() bucket.Limits {
	perSecond, _ := s.perSecond() // checked before
	l := bucket.Limits{Rate: rate.Limit(perSecond), Burst: s.Burst, Concurrency: s.Concurrency}
	if perSecond > 0 && l.Burst == 0 {
		l.Burst = int(max(math.Floor(perSecond), 1))
	}
	return l
}

// oneAtATime reports whether a second request at the same moment is refused, although several are allowed in the unit of the rate: the
// default burst is what the rate allows in a second.
func (s *Settings) oneAtATime() bool {
	number, unit, _ := strings.Cut(filledIn(s.Rate), "/")
	n, err := strconv.ParseFloat(number, 64)
	return err == nil && unit != "s" && n >= 2 && s.Burst == 0 && s.limits().Burst == 1
}

func (s *Settings) maxKeys() int {
	if s.MaxKeys == 0 {
		return defaultMaxKeys
	}
	return s.MaxKeys
}

// exempt returns the ranges that are not limited.
func (s *Settings) exempt() (ranges, error) {
	var found []netip.Prefix
	for _, text := range s.Exempt {
		prefix, err := parseRange(filledIn(text))
		if err != nil {
			return ranges{}, fmt.Errorf("exempt %s: must be an address or a range such as 10.0.0.0/8", text)
		}
		found = append(found, prefix)
	}
	return newRanges(found), nil
}

// derivedZone returns the name of a zone without a configured one. Handlers are not provisioned in the order of the config, so the name
// depends on the identity alone.
func (s *Settings) derivedZone(identity string) string {
	const digits = 8
	sum := sha256.Sum256([]byte(identity))
	return strings.TrimPrefix(filledIn(s.Rate)+"-", "-") + hex.EncodeToString(sum[:])[:digits]
}

// Identity returns the same text for equal settings. Handlers that share a zone have the same.
func (s *Settings) Identity() (string, error) {
	text, err := json.Marshal(s)
	return string(text), err
}
