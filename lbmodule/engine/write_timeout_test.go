//go:build unix

package engine

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// writeBounded bounds each write, as Caddy's connections do with write_timeout.
type writeBounded struct{ *net.UnixConn }

func (c writeBounded) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		return 0, err
	}
	return c.UnixConn.Write(p)
}

// If a request cannot be written in time, there is no answer to wait for.
func TestWriteTimeout(t *testing.T) {
	for name, length := range map[string]int{"with the header": 60 << 10, "on its way": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, func(_ int, p *peer) { <-t.Context().Done() })
			c := b.client()
			c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				made, err := b.dial(ctx, network, address)
				if err != nil {
					return nil, err
				}
				bounded := writeBounded{made.(*net.UnixConn)}
				return bounded, bounded.SetWriteBuffer(4 << 10)
			}
			ctx, cancel := context.WithTimeoutCause(t.Context(), patience/4, errors.New("test waited too long"))
			defer cancel()
			r := uploadOf(t, strings.NewReader(noise(length)), int64(length)).WithContext(ctx)
			r.Method = http.MethodPut
			_, err := c.RoundTrip(r)
			if timeout, ok := err.(net.Error); !ok || !timeout.Timeout() { //nolint:errorlint // reverse_proxy makes 504 of those only
				t.Fatalf("%v, want the timeout of the write", err)
			}
		})
	}
}
