package redisstore

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
)

// maxBatch is the largest number of runs in one pipeline.
const maxBatch = 128

// work sends waiting calls in batches until the store is closed.
func (s *Store) work() {
	batch := make([]*call, 0, maxBatch)
	for {
		select {
		case <-s.closed.Done():
			return
		case c := <-s.queue:
			batch = append(batch[:0], c)
		}
		for more := true; more && len(batch) < maxBatch; {
			select {
			case c := <-s.queue:
				batch = append(batch, c)
			default:
				more = false
			}
		}
		s.send(batch)
	}
}

// send runs the script for all calls in batch that have not been abandoned.
func (s *Store) send(batch []*call) {
	now := time.Now()
	waiting := batch[:0]
	for _, c := range batch {
		switch {
		case !s.Available():
			c.fail(ErrUnavailable)
		case now.After(c.deadline):
			c.fail(ErrTimeout)
		default:
			waiting = append(waiting, c)
		}
	}
	if len(waiting) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(s.closed, s.options.Timeout)
	defer cancel()
	s.exec(ctx, waiting, "evalsha", takeScript.Hash())
	// A restarted server does not know the script. It has taken no tokens then.
	var unknown []*call
	for _, c := range waiting {
		if redis.HasErrorPrefix(c.cmd.Err(), "NOSCRIPT") {
			unknown = append(unknown, c)
		}
	}
	if len(unknown) > 0 {
		s.exec(ctx, unknown, "eval", takeSource)
	}
	var failure error
	for _, c := range waiting {
		c.read()
		if c.err != nil {
			failure = c.err
		}
		close(c.done)
	}
	if s.closed.Err() == nil {
		s.guard.report(failure)
	}
}

// once is a command that is not sent again if the answer is lost, because its tokens would be taken twice. The cluster client would send it
// again otherwise.
type once struct{ *redis.Cmd }

// NoRetry implements [redis.Cmder].
func (once) NoRetry() bool { return true }

// exec runs the script once for each of calls, in one pipeline. The results are in their commands.
func (s *Store) exec(ctx context.Context, calls []*call, command, script string) {
	pipe := s.client.Pipeline()
	for _, c := range calls {
		args := append(make([]any, 0, 3+len(c.keys)+len(c.args)), command, script, len(c.keys))
		for _, key := range c.keys {
			args = append(args, key)
		}
		c.cmd = redis.NewCmd(ctx, append(args, c.args...)...)
		c.cmd.SetFirstKeyPos(firstKey)
		_ = pipe.Process(ctx, once{c.cmd}) // only queues the command
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
}

// firstKey is the index of the first key in such a command.
const firstKey = 3

func (c *call) fail(err error) {
	c.err = err
	close(c.done)
}
