package listener

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
)

// linger is how long clients have to close kept connections when Caddy exits. Each answer tells them to. A client that has not sent a
// request for that long is unlikely to send one at the moment the connection is closed.
const linger = time.Second

// finish closes the door after its last generation.
func (d *door) finish(last *generation) {
	defer func() {
		close(d.empty)
		doors.Lock()
		delete(doors.closing, d)
		doors.Unlock()
	}()
	if of, ok := d.main.(listening); ok && !d.first.inherited { // otherwise the next process accepts the connections in the queue
		for _, c := range queued(of) {
			d.receive(c)
		}
	}
	d.main.Close()
	close(d.ended)
	if caddy.Exiting() {
		d.closing.Store(true)
		d.mu.Lock()
		for _, s := range d.servers {
			s.lane.Drain()
		}
		d.mu.Unlock()
		d.linger(last)
	}
	d.silent.close()
	d.mu.Lock()
	servers := d.servers
	d.mu.Unlock()
	for _, s := range servers {
		d.ending.Go(func() { d.shutdown(s, last.grace) })
	}
	d.ending.Wait()
}

// linger waits until there are no connections any more, or until the time is over.
func (d *door) linger(last *generation) {
	bound := linger
	if half := duration(last.grace) / 2; half > 0 {
		bound = min(bound, half)
	}
	wait(bound, func() bool { return d.connections() == 0 })
}

// wait waits until done reports true, but not longer than bound.
func wait(bound time.Duration, done func() bool) {
	timeout := time.NewTimer(bound)
	defer timeout.Stop()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for !done() {
		select {
		case <-ticker.C:
		case <-timeout.C:
			return
		}
	}
}

// connections returns the number of connections that the door has.
func (d *door) connections() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.silent.len()
	for _, s := range d.servers {
		n += int(s.open.Load())
	}
	return n
}

// retire shuts down a server whose connections must not be kept. Those without a request are closed at once. New ones are still served:
// net/http drops requests that arrive when a server shuts down.
func (d *door) retire(s *server, grace caddy.Duration) {
	s.retire()
	wait(linger, func() bool { return s.open.Load() == 0 })
	d.shutdown(s, grace)
}

// shutdown waits for the requests of s to end, at most for the grace period of a config if it has one.
func (d *door) shutdown(s *server, grace caddy.Duration) {
	ctx := context.Background()
	if grace > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, duration(grace))
		defer cancel()
	}
	if err := s.shutdown(ctx); err != nil {
		d.serving.Load().logger.Error("server shutdown", zap.Stringer("address", d.addr), zap.Error(err))
	}
}
