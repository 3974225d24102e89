package front

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// halfCloser is one end of a pipe that can be closed in one direction.
type halfCloser struct {
	net.Conn
	closed bool
}

func (c *halfCloser) CloseWrite() error {
	c.closed = true
	return nil
}

func (c *halfCloser) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n == 1 && p[0] == 0 {
		return 0, io.EOF // it says that it is done
	}
	return n, err
}

// deadlines counts how often the client's connection is given a deadline.
type deadlines struct {
	http.ResponseWriter
	n atomic.Int64
}

func (d *deadlines) SetReadDeadline(time.Time) error {
	d.n.Add(1)
	return nil
}

// A tunnel of which one side is done ends when nothing has passed for the time that this side is given, and not before.
func TestTunnel(t *testing.T) {
	for name, test := range map[string]struct {
		done  func(t *tunnel, backend net.Conn)
		bound time.Duration
	}{
		"nobody": {func(*tunnel, net.Conn) {}, 0},
		"the backend": {func(_ *tunnel, backend net.Conn) {
			_, _ = backend.Write([]byte{0})
		}, backendDone},
		"the client": {func(tunnel *tunnel, _ net.Conn) { _ = tunnel.CloseWrite() }, clientDone},
	} {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			client := &deadlines{ResponseWriter: httptest.NewRecorder()}
			x := &Request{w: client}
			res := &http.Response{StatusCode: http.StatusSwitchingProtocols, Body: &halfCloser{Conn: near}}
			x.Switched(res, new(pool.Traffic))
			backend := res.Body.(io.ReadWriteCloser)
			go func() { _, _ = io.Copy(io.Discard, backend) }()
			go func() { _, _ = io.Copy(io.Discard, far) }()
			test.done(x.tunnel, far)
			synctest.Wait()
			if test.bound == 0 {
				time.Sleep(10 * clientDone)
			}
			for range 3 {
				time.Sleep(test.bound - 1)
				if _, err := backend.Write([]byte("x")); err != nil || client.n.Load() != 0 {
					t.Fatalf("%s: cut while bytes pass: %v", name, err)
				}
			}
			time.Sleep(test.bound + 1)
			if _, err := backend.Write([]byte("x")); (err != nil) != (test.bound > 0) || (client.n.Load() > 0) != (test.bound > 0) {
				t.Errorf("%s: after %v: %v, %d deadlines", name, test.bound, err, client.n.Load())
			}
			x.tunnel.finish()
			n := client.n.Load()
			_, _ = backend.Write([]byte("x"))
			time.Sleep(10 * clientDone)
			if client.n.Load() != n {
				t.Errorf("%s: the client is touched after the request", name)
			}
			near.Close()
			far.Close()
		})
	}
}

// A tunnel that is to end is woken at that time, once, and its backend's connection is closed if that does not help.
func TestTunnelEnd(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(t *tunnel)
		want time.Duration // -1 for never
	}{
		"at once":                  {func(t *tunnel) { t.End(0) }, 0},
		"later":                    {func(t *tunnel) { t.End(time.Hour) }, time.Hour},
		"twice, the first earlier": {func(t *tunnel) { t.End(time.Minute); t.End(time.Hour) }, time.Minute},
		"twice, the second":        {func(t *tunnel) { t.End(time.Hour); t.End(time.Minute) }, time.Minute},
		"later, then at once":      {func(t *tunnel) { t.End(time.Hour); t.End(0); t.End(0) }, 0},
		"after its request":        {func(t *tunnel) { t.End(time.Hour); t.finish(); t.End(0) }, -1},
	} {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			defer far.Close()
			defer near.Close()
			client := &deadlines{ResponseWriter: httptest.NewRecorder()}
			x := &Request{w: client}
			stream, ok := x.Switched(&http.Response{StatusCode: http.StatusSwitchingProtocols, Body: near}, new(pool.Traffic))
			if !ok {
				t.Fatal("no stream")
			}
			test.end(stream.(*tunnel))
			if test.want > 0 {
				time.Sleep(test.want - time.Millisecond)
				synctest.Wait()
				if client.n.Load() != 0 {
					t.Errorf("%s: woken too early", name)
				}
				time.Sleep(time.Millisecond)
				synctest.Wait()
			}
			if n := client.n.Load(); (n == 1) != (test.want >= 0) {
				t.Errorf("%s: woken %d times", name, n)
			}
			closed := make(chan struct{})
			go func() {
				_, _ = io.Copy(io.Discard, far)
				close(closed)
			}()
			time.Sleep(leave - 1)
			synctest.Wait()
			select {
			case <-closed:
				t.Errorf("%s: closed too early", name)
			default:
			}
			time.Sleep(2 * time.Hour)
			select {
			case <-closed:
				if test.want < 0 {
					t.Errorf("%s: closed", name)
				}
			default:
				if test.want >= 0 {
					t.Errorf("%s: not closed", name)
				}
			}
			x.tunnel.finish()
		})
	}
	if _, ok := new(Request).Switched(&http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, new(pool.Traffic)); ok {
		t.Error("an answer that does not switch protocols is a stream")
	}
}

// The context of a tunnel ends with that of its request, but for a client that the server takes for gone before the connection is taken over.
func TestTunnelApart(t *testing.T) {
	ours := errors.New("drained")
	for name, test := range map[string]struct {
		before, after error // with which the request ends
		want          bool
	}{
		"nothing":                 {},
		"the client, before":      {before: context.Canceled},
		"the client, afterwards":  {after: context.Canceled, want: true},
		"something of ours":       {before: ours, want: true},
		"something of ours later": {after: ours, want: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			request, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			x := new(tunnel)
			ctx, end := x.apart(request)
			if test.before != nil {
				cancel(test.before)
			}
			synctest.Wait()
			if ctx.Err() != nil {
				t.Errorf("%s: ended before the connection is taken over", name)
			}
			x.hijacked()
			if test.after != nil {
				cancel(test.after)
			}
			synctest.Wait()
			if got := ctx.Err() != nil; got != test.want {
				t.Errorf("%s: ended: %v, want %v", name, got, test.want)
			}
			if end(); ctx.Err() == nil {
				t.Errorf("%s: not ended with the tunnel", name)
			}
		})
	}
}
