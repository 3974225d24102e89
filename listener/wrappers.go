package listener

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/caddyserver/caddy/v2"
)

// wrappers are the listener wrappers of a server. Caddy applies its own instances to its socket; these are copies, for the connections of a
// door.
type wrappers struct {
	before, after []caddy.ListenerWrapper // seamless; nil stands for TLS
	foreign       string                  // an unknown one; the others are not loaded then
	tls           *tls.Config             // nil if connections are not encrypted
}

// known are the wrappers that do nothing before a connection is accepted, and then only wrap it.
var known = []string{"http_redirect", "proxy_protocol"}

// loadWrappers loads the wrappers in list.
func loadWrappers(ctx caddy.Context, list []json.RawMessage) (w wrappers, err error) {
	var self, encrypted bool
	for _, raw := range list {
		var settings map[string]json.RawMessage
		var name string
		if err := errors.Join(json.Unmarshal(raw, &settings), json.Unmarshal(settings["wrapper"], &name)); err != nil {
			return w, fmt.Errorf("listener_wrappers: %w", err)
		}
		var wrapper caddy.ListenerWrapper
		switch {
		case name == "seamless":
			if self {
				return w, errors.New("listener_wrappers: seamless is given twice")
			}
			self = true
			continue
		case name == "tls":
			encrypted = true
		case !slices.Contains(known, name):
			w.foreign = name
			return w, nil
		default:
			delete(settings, "wrapper")
			if raw, err = json.Marshal(settings); err != nil {
				return w, err
			}
			loaded, err := ctx.LoadModuleByID("caddy.listeners."+name, raw)
			if err != nil {
				return w, fmt.Errorf("listener_wrappers: %s: %w", name, err)
			}
			wrapper = loaded.(caddy.ListenerWrapper)
		}
		if self {
			w.after = append(w.after, wrapper)
		} else {
			w.before = append(w.before, wrapper)
		}
	}
	if !encrypted { // as in the http app, TLS is the first then
		w.before = slices.Insert(w.before, 0, nil)
	}
	return w, nil
}

// wrap passes c through all wrappers.
func (w *wrappers) wrap(c net.Conn) (net.Conn, error) {
	c, err := w.wrapBefore(c)
	if err != nil {
		return nil, err
	}
	return w.pass(c, w.after)
}

// none reports whether there is nothing but TLS between a client and the server.
func (w *wrappers) none() bool {
	return !slices.ContainsFunc(slices.Concat(w.before, w.after), func(w caddy.ListenerWrapper) bool { return w != nil })
}

// wrapBefore passes c through the wrappers before seamless.
func (w *wrappers) wrapBefore(c net.Conn) (net.Conn, error) { return w.pass(c, w.before) }

// pass passes c through list, without reading from it. If a wrapper refuses c, c is closed.
func (w *wrappers) pass(c net.Conn, list []caddy.ListenerWrapper) (net.Conn, error) {
	for _, wrapper := range list {
		if wrapper != nil {
			wrapped, err := wrapper.WrapListener(&single{conn: c}).Accept()
			if err != nil {
				c.Close()
				return nil, err
			}
			c = wrapped
		} else if w.tls != nil {
			c = tls.Server(c, w.tls)
		}
	}
	return c, nil
}

// single is a listener that accepts one connection.
type single struct {
	conn net.Conn
	done bool
}

func (s *single) Accept() (net.Conn, error) {
	if s.done {
		return nil, net.ErrClosed
	}
	s.done = true
	return s.conn, nil
}

func (s *single) Addr() net.Addr { return s.conn.LocalAddr() }
func (s *single) Close() error   { return nil }
