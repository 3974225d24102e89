// Package redisstore keeps token buckets in Redis or Valkey, for a fleet that limits its clients together.
//
// A decision is one run of one script, with the server's clock. Concurrent decisions share a pipeline. While the server does not answer,
// decisions fail at once, and probes in the background find out when it answers again.
package redisstore

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// Options configure a store.
type Options struct {
	URL     string
	Timeout time.Duration // for a decision

	// Secret is the key of the hash that bucket keys are hashed with; the whole fleet must have the same. If it is empty, it is derived
	// from the password in the URL.
	Secret string

	// Changed is called when the store has become unavailable, with the reason, or available again, with nil. Calls are sequential, from a
	// goroutine of the store.
	Changed func(err error)
}

// Bucket is one of the buckets that a request is charged to.
type Bucket struct {
	Key   []byte  // identifies the client; hashed before it is sent
	Rate  float64 // tokens per second
	Burst int
}

// Result is the server's decision.
type Result struct {
	Refused int           // number of the bucket that refused, from 1; 0 if none did
	Wait    time.Duration // time until that bucket would grant the request
	Tokens  float64       // left in the last bucket
}

// ErrUnavailable means that the server has failed of late and is not asked.
var ErrUnavailable = errors.New("store is unavailable")

// errUnexpected means that the server has sent an answer that the script cannot return.
var errUnexpected = errors.New("unexpected answer of the script")

// The largest values that the script can return: microseconds, and tokens.
const (
	maxWait   = 2 * 366 * 24 * 3600 * 1e6
	maxTokens = 1e15
)

// ErrTimeout means that the answer did not come in time.
var ErrTimeout = errors.New("store did not answer in time")

//go:embed take.lua
var takeSource string

var takeScript = redis.NewScript(takeSource)

// Store is a connection to a server, or to several of a cluster. It is safe for concurrent use.
type Store struct {
	options Options
	client  redis.UniversalClient
	secret  []byte
	hidden  *strings.Replacer // removes passwords from a text; nil if there are none
	guard   guard
	queue   chan *call
	closed  context.Context
	close   context.CancelFunc
	begin   sync.Once
	begun   atomic.Bool
	running sync.WaitGroup
}

// call is a run of the script that a caller waits for.
type call struct {
	keys     []string
	args     []any
	deadline time.Time
	cmd      *redis.Cmd
	done     chan struct{} // closed when result and err are set
	most     time.Duration // the longest time that a refusal can last
	buckets  int
	result   Result
	err      error
}

// maxWaiting is how many calls may wait for a place in a pipeline.
const maxWaiting = 4096

// Check returns an error if a URL is not valid.
func Check(url string) error {
	_, err := parse(url)
	return err
}

// New returns a store that is not started.
func New(o Options) (*Store, error) {
	parsed, err := parse(o.URL)
	if err != nil {
		return nil, err
	}
	secret := o.Secret
	if secret == "" {
		secret = "ballast rate limits " + parsed.Password
	}
	s := &Store{options: o, client: newClient(parsed, o.Timeout), secret: []byte(secret), queue: make(chan *call, maxWaiting)}
	var hidden []string
	for _, password := range []string{parsed.Password, parsed.SentinelPassword} {
		if password != "" {
			hidden = append(hidden, password, "xxxxx")
		}
	}
	if len(hidden) > 0 {
		s.hidden = strings.NewReplacer(hidden...)
	}
	s.guard.failed = make(chan struct{}, 1)
	s.closed, s.close = context.WithCancel(context.Background())
	return s, nil
}

// maxReason is the longest part of an error's text that is shown.
const maxReason = 512

// told returns err without passwords. Servers repeat commands that they do not understand, and those may contain the password.
func (s *Store) told(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if s.hidden != nil {
		text = s.hidden.Replace(text)
	}
	if text = text[:min(len(text), maxReason)]; text == err.Error() {
		return err
	}
	return errors.New(strings.ToValidUTF8(text, ""))
}

// Start begins to connect to the server, and does not wait for it. The first decision does the same.
func (s *Store) Start() {
	if s.begun.Load() {
		return
	}
	s.begin.Do(func() {
		s.begun.Store(true)
		s.running.Go(s.watch)
		for range workers {
			s.running.Go(s.work)
		}
	})
}

// Close stops the store. Calls that wait fail, and so do later ones.
func (s *Store) Close() error {
	s.guard.down.Store(true)
	s.begin.Do(func() {}) // a later call of Start does nothing
	s.close()
	s.running.Wait()
	return s.client.Close()
}

// Available reports whether the server is asked.
func (s *Store) Available() bool { return !s.guard.down.Load() }

// Take takes a token from each of the buckets, or from none. The buckets of one request must belong to one group, which keeps them on one
// server of a cluster.
func (s *Store) Take(zone string, group []byte, buckets []Bucket) (Result, error) {
	return s.do(1, zone, group, buckets)
}

// Look returns the tokens in a bucket.
func (s *Store) Look(zone string, group []byte, b Bucket) (Result, error) {
	return s.do(0, zone, group, []Bucket{b})
}

// Refund gives back the tokens that Take has taken. It does not wait for the server.
func (s *Store) Refund(zone string, group []byte, buckets []Bucket) {
	if s.Available() {
		s.enqueue(s.call(-1, zone, group, buckets))
	}
}

// Forget fills a bucket. Without a group it scans all keys of the server for the bucket.
func (s *Store) Forget(ctx context.Context, zone string, group, key []byte) error {
	if !s.Available() {
		return ErrUnavailable
	}
	if group == nil {
		return s.told(s.unlink(ctx, escapeGlob("ballast:"+zone+":{")+"*"+escapeGlob("}:"+s.hash(zone, key))))
	}
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	return s.told(s.client.Del(ctx, s.key(zone, group, key)).Err())
}

// ForgetZone fills all buckets of a zone. It scans all keys of the server.
func (s *Store) ForgetZone(ctx context.Context, zone string) error {
	if !s.Available() {
		return ErrUnavailable
	}
	return s.told(s.unlink(ctx, escapeGlob("ballast:"+zone+":{")+"*"))
}

// unlink deletes all keys that match pattern.
func (s *Store) unlink(ctx context.Context, pattern string) error {
	forget := func(ctx context.Context, server redis.UniversalClient) error {
		const step = 1000
		keys := server.Scan(ctx, 0, pattern, step).Iterator()
		for keys.Next(ctx) {
			if err := server.Unlink(ctx, keys.Val()).Err(); err != nil {
				return err
			}
		}
		return keys.Err()
	}
	if cluster, ok := s.client.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, server *redis.Client) error { return forget(ctx, server) })
	}
	return forget(ctx, s.client)
}

// escapeGlob escapes a zone's name for use in a pattern.
func escapeGlob(s string) string {
	return strings.NewReplacer("*", `\*`, "?", `\?`, "[", `\[`, "]", `\]`, `\`, `\\`).Replace(s)
}

func (s *Store) do(cost int, zone string, group []byte, buckets []Bucket) (Result, error) {
	if !s.Available() {
		return Result{}, ErrUnavailable
	}
	s.Start()
	c := s.call(cost, zone, group, buckets)
	if !s.enqueue(c) {
		return Result{}, ErrTimeout // the queue is so long that the call would time out
	}
	timer := time.NewTimer(s.options.Timeout)
	defer timer.Stop()
	select {
	case <-c.done:
		return c.result, s.told(c.err)
	case <-timer.C:
		return Result{}, ErrTimeout
	case <-s.closed.Done():
		return Result{}, ErrUnavailable
	}
}

func (s *Store) call(cost int, zone string, group []byte, buckets []Bucket) *call {
	c := &call{done: make(chan struct{}), deadline: time.Now().Add(s.options.Timeout), buckets: len(buckets)}
	c.args = append(make([]any, 0, 1+2*len(buckets)), cost)
	for _, b := range buckets {
		c.keys = append(c.keys, s.key(zone, group, b.Key))
		period := float64(b.Burst) / b.Rate * 1e6
		c.most = max(c.most, time.Millisecond+time.Duration(min(2e6/b.Rate, maxWait)*float64(time.Microsecond)))
		c.args = append(c.args, strconv.FormatFloat(period, 'g', -1, 64), b.Burst)
	}
	return c
}

// key returns the Redis key of a bucket. The part in braces decides which server of a cluster stores it.
func (s *Store) key(zone string, group, key []byte) string {
	var b strings.Builder
	b.WriteString("ballast:")
	b.WriteString(zone)
	b.WriteString(":{")
	b.WriteString(s.hash(zone, group))
	b.WriteString("}:")
	b.WriteString(s.hash(zone, key))
	return b.String()
}

// hash hides data from those who can read the traffic or the store. It is keyed, because there are so few addresses that all could be
// tried.
func (s *Store) hash(zone string, data []byte) string {
	const enough = 16 // bytes
	mac := hmac.New(sha256.New, s.secret)
	mac.Write([]byte(zone))
	mac.Write([]byte{0})
	mac.Write(data)
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:enough])
}

func (s *Store) enqueue(c *call) bool {
	select {
	case s.queue <- c:
		return true
	default:
		return false
	}
}

// read reads the answer of c's run.
func (c *call) read() {
	values, err := c.cmd.Slice()
	if err != nil {
		c.err = err
		return
	}
	if len(values) == 3 {
		refused, ok1 := values[0].(int64)
		wait, ok2 := values[1].(int64)
		text, ok3 := values[2].(string)
		tokens, err := strconv.ParseFloat(text, 64)
		// A refused client is held here for wait, even if the server becomes unavailable, so wait is checked against what the script can
		// return.
		possible := 0 <= refused && refused <= int64(c.buckets) && 0 <= wait && wait <= c.most.Microseconds() && math.Abs(tokens) <= maxTokens
		if ok1 && ok2 && ok3 && err == nil && possible {
			c.result = Result{Refused: int(refused), Wait: time.Duration(wait) * time.Microsecond, Tokens: tokens}
			return
		}
	}
	c.err = errUnexpected
}
