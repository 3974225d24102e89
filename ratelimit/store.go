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

// store is a connection to a Redis that several limits may use, over configs.
type store struct {
	*redisstore.Store
	identity string
}

// clientLog is where the Redis client writes what it would write to the standard error output: each connection that it
// cannot make, among others.
type clientLog struct{}

func (clientLog) Printf(_ context.Context, format string, args ...any) {
	caddy.Log().Named("ip_rate_limit.redis").Debug("message of the redis client", zap.String("text", fmt.Sprintf(format, args...)))
}

var setClientLog = sync.OnceFunc(func() { redis.SetLogger(clientLog{}) })

// address is the URL with its placeholders filled in. What stands for user or password is escaped: it may be made of anything.
func (r *Redis) address() string {
	at := strings.LastIndex(r.URL, "@")
	if at < 0 {
		return filledIn(r.URL)
	}
	user, err := caddy.NewReplacer().ReplaceFunc(r.URL[:at], func(_ string, value any) (any, error) {
		return url.PathEscape(caddy.ToString(value)), nil
	})
	if err != nil {
		user = r.URL[:at] // parsing it says what is wrong
	}
	return user + filledIn(r.URL[at:])
}

// acquireStore returns the store of r. It does nothing until it is started.
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

// storeChanged logs that a store is unavailable, or available again. Stores outlive configs, and their loggers.
func storeChanged(address string, err error) {
	logger := caddy.Log().Named("ip_rate_limit")
	if u, parseErr := url.Parse(address); parseErr == nil {
		u.RawQuery = "" // it may hold a password, too
		address = u.Redacted()
	}
	if err == nil {
		logger.Info("rate limit store is available again", zap.String("url", address))
		return
	}
	logger.Warn("rate limit store is unavailable; limits follow their on_error", zap.String("url", address), zap.Error(err))
}

// sharedBuckets are the buckets of c in a store.
func sharedBuckets(c *client, l bucket.Limits) (group []byte, buckets []redisstore.Bucket) {
	for _, k := range c.keys() {
		buckets = append(buckets, sharedBucket(k, l))
	}
	return buckets[len(buckets)-1].Key, buckets // the widest range has those that are charged together
}

func sharedBucket(k bucket.Key, l bucket.Limits) redisstore.Bucket {
	return redisstore.Bucket{Key: k.Bytes(), Rate: float64(l.Rate) * float64(k.Multiple()), Burst: l.Burst * k.Multiple()}
}
