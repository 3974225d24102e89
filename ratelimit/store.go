package ratelimit

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/ratelimit/bucket"
	"github.com/ballastlb/ballast/ratelimit/redisstore"
)

// store is a connection to a Redis that several limits may share. It outlives configs.
type store struct {
	*redisstore.Store
	identity string
}

// clientLog receives what the Redis client would otherwise write to standard error, for example each connection that it cannot make.
type clientLog struct{}

func (clientLog) Printf(_ context.Context, format string, args ...any) {
	caddy.Log().Named("ip_rate_limit.redis").Debug("message of the redis client", zap.String("text", fmt.Sprintf(format, args...)))
}

var setClientLog = sync.OnceFunc(func() { redis.SetLogger(clientLog{}) })

// address returns the URL with its placeholders replaced. Values for the user and the password are escaped, because they may contain any
// character.
func (r *Redis) address() string {
	at := strings.LastIndex(r.URL, "@")
	if at < 0 {
		return filledIn(r.URL)
	}
	user, err := caddy.NewReplacer().ReplaceFunc(r.URL[:at], func(_ string, value any) (any, error) {
		return url.PathEscape(caddy.ToString(value)), nil
	})
	if err != nil {
		user = r.URL[:at] // parsing the URL reports the mistake
	}
	return user + filledIn(r.URL[at:])
}

// acquireStore returns the store of r. The caller must start it.
func acquireStore(r *Redis) (*store, error) {
	timeout := defaultTimeout
	if r.Timeout != 0 {
		timeout = time.Duration(r.Timeout)
	}
	address, secret := r.address(), filledIn(r.Secret)
	identity := strings.Join([]string{address, timeout.String(), secret}, "\n")
	return stores.acquire(identity, func() (*store, error) {
		setClientLog()
		s, err := redisstore.New(redisstore.Options{
			URL: address, Timeout: timeout, Secret: secret,
			Changed: func(err error) { storeChanged(address, err) },
		})
		return &store{s, identity}, err
	})
}

func (s *store) release() {
	if last, ok := stores.release(s.identity); ok {
		_ = last.Close()
	}
}

// storeChanged logs that a store is unavailable, or available again. It does not use a config's logger, because stores outlive configs.
func storeChanged(address string, err error) {
	logger := caddy.Log().Named("ip_rate_limit")
	if u, parseErr := url.Parse(address); parseErr == nil {
		u.RawQuery = "" // it may contain a password as well
		address = u.Redacted()
	}
	if err == nil {
		logger.Info("rate limit store is available again", zap.String("url", address))
		return
	}
	logger.Warn("rate limit store is unavailable; limits follow their on_error", zap.String("url", address), zap.Error(err))
}

// sharedBuckets returns the buckets of c in a store.
func sharedBuckets(c *client, l bucket.Limits) (group []byte, buckets []redisstore.Bucket) {
	for _, k := range c.keys() {
		buckets = append(buckets, sharedBucket(k, l))
	}
	return buckets[len(buckets)-1].Key, buckets // the widest range is the group: it keeps the buckets of one request together
}

func sharedBucket(k bucket.Key, l bucket.Limits) redisstore.Bucket {
	return redisstore.Bucket{Key: k.Bytes(), Rate: float64(l.Rate) * float64(k.Multiple()), Burst: l.Burst * k.Multiple()}
}
