package lbmodule

import (
	"context"
	"net"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// dialFunc is how a transport makes a connection.
type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// timeConnections counts how long it takes to connect to a backend. It is the dialing that is wrapped: requests on kept
// connections pay nothing.
func (h *Handler) timeConnections() {
	t, ok := h.transport().(*reverseproxy.HTTPTransport)
	if !ok || t.Transport == nil {
		return
	}
	if t.Transport.DialContext != nil {
		t.Transport.DialContext = timed(h.pool, t.Transport.DialContext)
	}
	if t.Transport.DialTLSContext != nil {
		t.Transport.DialTLSContext = timed(h.pool, t.Transport.DialTLSContext)
	}
}

// timed counts how long dial takes for requests of the pool. Probes name no upstream.
func timed(p *pool.Pool, dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		start := time.Now()
		conn, err := dial(ctx, network, address)
		took := time.Since(start)
		if to, known := reverseproxy.GetDialInfo(ctx); err == nil && known && to.Upstream != nil {
			p.TrafficOf(to.Upstream.Dial).Connected(took)
		}
		return conn, err
	}
}
