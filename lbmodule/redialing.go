package lbmodule

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// redialTimeout bounds a connection to a dead backend, unless the transport gives it more.
const redialTimeout = 3 * time.Second

// redial has the members of set tried when they are dead; ended tells that the config has ended. Each of the functions that it returns
// ends that for one of them.
func (h *Handler) redial(set *memberSet, ended bool) (stops []func()) {
	if set == nil {
		return nil
	}
	for i := range set.view.Len() {
		b := set.view.Backend(i)
		if b.Unchecked || b.State > pool.Draining {
			continue
		}
		dial, err := h.redialer(b.Address)
		if err != nil {
			// Only addresses that a dynamic source named can be wrong here.
			h.logger.Error("backend cannot be tried", zap.String("pool", h.pool.Name()), zap.String("backend", b.Address), zap.Error(err))
			continue
		}
		stops = append(stops, set.view.Member(i).Redial(dial, ended))
	}
	return stops
}

// redialer connects to the backend of that address as the transport does, as far as that can be known: to its proxy where it uses
// one, which is what it could not connect to.
func (h *Handler) redialer(address string) (pool.Dialer, error) {
	t, err := targetAt(address, 0)
	if err != nil {
		return nil, err
	}
	t.dial.Upstream = nil // it is no request's connection
	timeout := redialTimeout
	dial := new(net.Dialer).DialContext
	transport, ok := h.stock.Transport.Configured().(*reverseproxy.HTTPTransport)
	if ok = ok && transport.Transport != nil && transport.Transport.DialContext != nil; ok {
		dial, timeout = transport.Transport.DialContext, max(timeout, time.Duration(transport.DialTimeout))
	}
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(t.prepare(ctx), timeout)
		defer cancel()
		network, to := t.dial.Network, t.dial.Address
		if ok && transport.Transport.Proxy != nil {
			// Asked for its proxy, the transport notes in the context that it is not the backend that is dialed.
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url(transport).String(), nil)
			if err != nil {
				return err
			}
			proxy, err := transport.Transport.Proxy(r)
			if err != nil {
				return err
			}
			if proxy != nil {
				network, to = "tcp", hostPort(proxy)
			}
		}
		conn, err := dial(ctx, network, to)
		if err != nil {
			return err
		}
		if h.probing != nil {
			// While it was down, probes have become rare.
			checker.Hurry(h.probing.check.Key(address, h.probing.raw))
		}
		return conn.Close()
	}, nil
}

// hostPort is the address of a proxy.
func hostPort(proxy *url.URL) string {
	port := proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[proxy.Scheme]
	}
	return net.JoinHostPort(proxy.Hostname(), port)
}
