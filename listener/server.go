package listener

import (
	"cmp"
	"context"
	"crypto/tls"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/listener/lane"
)

// shape has the properties that the connections of an HTTP server keep as long as they live.
type shape struct {
	key  string      // connections with another key must not be kept
	tls  bool        // encrypted connections must not be kept without TLS, and vice versa
	only *generation // if not nil, the connections must not be kept for another config

	h2, h2c bool // HTTP/2 connections must not be kept if it is switched off

	readTimeout, readHeaderTimeout, writeTimeout, idleTimeout time.Duration
	maxHeaderBytes                                            int
}

// trusts reports whether connections of another shape may be kept and served with the config of s.
func (s shape) trusts(other shape) bool {
	return s.key == other.key && s.tls == other.tls && s.only == other.only && s.h2 == other.h2 && s.h2c == other.h2c
}

// server serves the connections of a door that have the same shape. It is configured as Caddy's own servers are.
type server struct {
	http.Server

	door  *door
	shape shape
	inlet *inlet

	lane   *lane.Lane  // nil if there is none
	behind http.Server // serves the connections that the lane hands over; it does not look for an HTTP/2 preface
	handed *inlet

	open atomic.Int64 // number of connections
	full atomic.Bool  // the server takes no connections any more, except those that the lane hands over

	// last is the last config that trusts the connections, which are about to be closed; nil while the config that serves trusts them.
	last atomic.Pointer[generation]
}

func newServer(d *door, s shape) *server {
	srv := &server{door: d, shape: s, inlet: newInlet(d.addr), handed: newInlet(d.addr)}
	srv.setUp(&srv.Server)
	srv.setUp(&srv.behind)
	if !s.h2 {
		srv.TLSNextProto = make(map[string]func(*http.Server, *tls.Conn, http.Handler))
	}
	if s.h2 || s.h2c {
		srv.Protocols.SetUnencryptedHTTP2(true)
		// It only fails for unsuitable TLS settings, and there are none.
		_ = http2.ConfigureServer(&srv.Server, new(http2.Server)) //nolint:staticcheck // as Caddy does
	}
	srv.lane = lane.New(lane.Options{
		Site: func() *lane.Site { return srv.generation().site },
		HandOver: func(c net.Conn, anew bool) bool {
			if anew {
				return srv.inlet.put(c)
			}
			return srv.handed.put(c)
		},
		Back:           func() { srv.open.Add(1) },
		Ended:          func() { srv.open.Add(-1) },
		Server:         &srv.Server,
		Idle:           cmp.Or(s.idleTimeout, s.readTimeout),
		ReadHeader:     cmp.Or(s.readHeaderTimeout, s.readTimeout),
		ReadTimeout:    s.readTimeout,
		WriteTimeout:   s.writeTimeout,
		MaxHeaderBytes: cmp.Or(s.maxHeaderBytes, http.DefaultMaxHeaderBytes),
	})
	go func() { _ = srv.Serve(srv.inlet) }()
	go func() { _ = srv.behind.Serve(srv.handed) }()
	return srv
}

// setUp sets up an HTTP/1 server for the shape of s.
func (s *server) setUp(srv *http.Server) {
	srv.Handler, srv.ConnContext, srv.ConnState = s, replayed, s.became
	srv.ReadTimeout, srv.ReadHeaderTimeout = s.shape.readTimeout, s.shape.readHeaderTimeout
	srv.WriteTimeout, srv.IdleTimeout, srv.MaxHeaderBytes = s.shape.writeTimeout, s.shape.idleTimeout, s.shape.maxHeaderBytes
	srv.ErrorLog = log.New(errorLog{s.door}, "", 0)
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP1(true)
}

// retire makes answers tell clients to close their connections.
func (s *server) retire() {
	s.SetKeepAlivesEnabled(false)
	s.behind.SetKeepAlivesEnabled(false)
	s.lane.Drain()
}

// free releases a server without connections.
func (s *server) free() {
	s.inlet.close()
	s.handed.close()
	s.lane.Free()
}

// shutdown waits until the requests of s have ended, or ctx is done.
func (s *server) shutdown(ctx context.Context) error {
	var each sync.WaitGroup
	var lane, behind error
	s.behind.SetKeepAlivesEnabled(false)
	each.Go(func() {
		lane = s.lane.Shutdown(ctx)
		behind = s.behind.Shutdown(ctx) // until now the lane may have handed over a request that failed
	})
	err := s.Shutdown(ctx)
	each.Wait()
	return cmp.Or(err, lane, behind)
}

// generation returns the config that serves the next request.
func (s *server) generation() *generation {
	serving := s.door.serving.Load() // must be read before last, which is set first
	if last := s.last.Load(); last != nil {
		return last
	}
	return serving
}

// handedKey is the key of a connection that the lane has handed over.
type handedKey struct{}

// handedOver is such a connection.
type handedOver interface {
	TLSState() *tls.ConnectionState // net/http does not see it as a TLS connection
	Failed() *lane.Failed
	Became(state http.ConnState)
}

// replayed puts such a connection into the context of its requests.
func replayed(ctx context.Context, c net.Conn) context.Context {
	if c, ok := c.(handedOver); ok {
		return context.WithValue(ctx, handedKey{}, c)
	}
	return ctx
}

// ServeHTTP makes the config that serves answer a request.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == "PRI" && r.TLS == nil && !s.shape.h2 && !s.shape.h2c {
		panic(http.ErrAbortHandler) // HTTP/2 is switched off; Caddy also closes such a connection without an answer
	}
	if s.door.closing.Load() && r.Header["Upgrade"] == nil {
		w.Header().Set("Connection", "close") // with HTTP/2 it causes a GOAWAY
	}
	if c, ok := r.Context().Value(handedKey{}).(handedOver); ok {
		r.TLS = c.TLSState()
		if failed := c.Failed(); failed != nil {
			failed.ServeHTTP(w, r)
			return
		}
	}
	s.generation().handler.ServeHTTP(w, r)
}

// put passes c to the server, or to its lane. It reports false if the server takes no connections any more.
func (s *server) put(c net.Conn, express bool) bool {
	s.open.Add(1)
	if !s.full.Load() && (express && s.lane.Serve(c) || s.inlet.put(c)) {
		return true
	}
	s.open.Add(-1)
	return false
}

// became counts connections, and passes the state to those that the lane has handed over.
func (s *server) became(c net.Conn, state http.ConnState) {
	if c, ok := c.(handedOver); ok {
		c.Became(state)
	}
	if state == http.StateClosed || state == http.StateHijacked {
		s.open.Add(-1)
	}
}

// inlet is the listener of a server: it accepts the connections that the door passes to it.
type inlet struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
	addr   net.Addr
}

func newInlet(addr net.Addr) *inlet {
	l := &inlet{conns: make(chan net.Conn), closed: make(chan struct{}), addr: addr}
	l.close = sync.OnceFunc(func() { close(l.closed) })
	return l
}

// put blocks until Accept takes c.
func (l *inlet) put(c net.Conn) bool {
	select {
	case l.conns <- c:
		return true
	case <-l.closed:
		return false
	}
}

func (l *inlet) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *inlet) Addr() net.Addr { return l.addr }

func (l *inlet) Close() error {
	l.close()
	return nil
}

// errorLog writes the messages of net/http about connections to Caddy's log, with the levels of Caddy's own servers. It uses the config
// that serves, because the log of an earlier one may be closed.
type errorLog struct{ door *door }

func (e errorLog) Write(p []byte) (int, error) {
	text, logger := strings.TrimSuffix(string(p), "\n"), e.door.serving.Load().stdlib
	if strings.HasPrefix(text, "http: panic serving") {
		logger.Error(text)
	} else {
		logger.Debug(text)
	}
	return len(p), nil
}

func duration(d caddy.Duration) time.Duration { return time.Duration(d) }
