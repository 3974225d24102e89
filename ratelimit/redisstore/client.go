package redisstore

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// workers is the largest number of pipelines in flight.
const workers = 4

// maxConns bounds the connections to a server: one for each worker, and one each for probes and for the API.
const maxConns = workers + 2

// dialTimeout is the time for a new connection. No request waits longer than its own timeout.
const dialTimeout = 2 * time.Second

// schemes maps the URL schemes to those of go-redis.
var schemes = map[string]string{
	"redis": "redis", "rediss": "rediss", "unix": "unix",
	"redis+cluster": "redis", "rediss+cluster": "rediss",
	"redis+sentinel": "redis", "rediss+sentinel": "rediss",
}

// errWrongURL does not repeat the wrong part, which may be a part of a password.
var errWrongURL = errors.New("redis: url: must have a host, followed only by a port and a database number, such as redis://127.0.0.1:6379/0")

// parse reads the URL of a store:
//
//	redis://[user:password@]host[:port][/db]           rediss:// over TLS
//	unix://[user:password@]/path/to/socket[?db=n]
//	redis+cluster://[user:password@]host:port[?addr=host:port&...]
//	redis+sentinel://[user:password@]host:port[/db]?master_name=name[&addr=host:port&...][&sentinel_username=user&sentinel_password=password]
//
// rediss+cluster and rediss+sentinel are over TLS. skip_verify=true accepts every certificate.
func parse(address string) (*redis.UniversalOptions, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("redis: url: must be a URL such as redis://127.0.0.1:6379/0")
	}
	// A password that is not escaped may be anywhere in the parsed URL; errors must not repeat it.
	if rest := u.Path + u.RawQuery + u.Fragment; u.User == nil && u.Scheme != "unix" && strings.Contains(rest, "@") || u.Fragment != "" {
		return nil, fmt.Errorf("redis: url: the characters / ? # and %% of a password must be percent-encoded")
	}
	scheme, known := schemes[u.Scheme]
	if !known {
		return nil, fmt.Errorf("redis: url: scheme %q: must be redis, rediss or unix, or one of the first two with +cluster or +sentinel", u.Scheme)
	}
	kind := strings.TrimPrefix(strings.TrimPrefix(u.Scheme, scheme), "+")
	allowed := map[string][]string{"": {"db", "skip_verify"}, "cluster": {"addr", "skip_verify"}, "sentinel": {"addr", "db", "master_name", "sentinel_username", "sentinel_password", "skip_verify"}}[kind]
	for word := range u.Query() {
		if !slices.Contains(allowed, word) {
			return nil, fmt.Errorf("redis: url: parameter %q: must be one of %s", word, strings.Join(allowed, ", "))
		}
	}
	query := u.Query()
	u.Scheme = scheme
	o := new(redis.UniversalOptions)
	switch kind {
	case "cluster":
		parsed, err := redis.ParseClusterURL(u.String())
		if err != nil {
			return nil, errWrongURL
		}
		o.Addrs, o.Username, o.Password, o.TLSConfig = parsed.Addrs, parsed.Username, parsed.Password, parsed.TLSConfig
		o.IsClusterMode = true
	case "sentinel":
		// go-redis uses the user and password of the URL for the sentinels. Here they are those of the servers, as in all other URLs.
		o.Username = u.User.Username()
		o.Password, _ = u.User.Password()
		o.SentinelUsername, o.SentinelPassword = query.Get("sentinel_username"), query.Get("sentinel_password")
		query.Del("sentinel_username")
		query.Del("sentinel_password")
		u.RawQuery = query.Encode()
		parsed, err := redis.ParseFailoverURL(u.String())
		if err != nil {
			return nil, errWrongURL
		}
		if parsed.MasterName == "" {
			return nil, fmt.Errorf("redis: url: master_name: must be given with +sentinel")
		}
		o.Addrs, o.MasterName, o.DB = parsed.SentinelAddrs, parsed.MasterName, parsed.DB
		o.TLSConfig = parsed.TLSConfig
	default:
		parsed, err := redis.ParseURL(u.String())
		if err != nil {
			return nil, errWrongURL
		}
		o.Addrs, o.DB, o.Username, o.Password, o.TLSConfig = []string{parsed.Addr}, parsed.DB, parsed.Username, parsed.Password, parsed.TLSConfig
	}
	return o, nil
}

// newClient returns a client with few connections that never sends a command twice. It dials when it is first used.
func newClient(o *redis.UniversalOptions, timeout time.Duration) redis.UniversalClient {
	o.MaxRetries = -1 // a retry would take a token twice; see also type once
	o.DialTimeout, o.DialerRetries = dialTimeout, 1
	o.ReadTimeout, o.WriteTimeout, o.ContextTimeoutEnabled = timeout, timeout, true
	o.Dialer = dialer(o)
	o.PoolSize, o.MaxActiveConns, o.PipelinePoolSize = maxConns, maxConns, -1
	o.PoolTimeout = timeout
	o.Protocol, o.DisableIdentity = 2, true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return redis.NewUniversalClient(o)
}
