//go:build unix

package engine

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// certificate returns a self-signed certificate for the host "backend", and the pool that trusts it.
func certificate(t testing.TB, until time.Time) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "backend"}, DNSNames: []string{"backend"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: until, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	made, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(made)
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{made}, PrivateKey: key, Leaf: parsed}, trusted
}

// secureBackend speaks TLS.
type secureBackend struct {
	*backend
	handshakes atomic.Int32
	handed     atomic.Int32 // connections handed over
	streamed   atomic.Int32 // requests over net/http's transport
}

// newSecureBackend returns a backend with these settings, which may change between connections. It serves the connections that negotiate
// HTTP/2 as such.
func newSecureBackend(t testing.TB, config func(n int) *tls.Config, serve func(n int, p *peer, over *tls.Conn)) *secureBackend {
	b := new(secureBackend)
	b.backend = newBackend(t, func(n int, p *peer) {
		over := tls.Server(p.Conn, config(n))
		if over.Handshake() != nil {
			return
		}
		b.handshakes.Add(1)
		if over.ConnectionState().NegotiatedProtocol == "h2" {
			serveHTTP2(over)
			return
		}
		serve(n, &peer{Conn: over, br: bufio.NewReader(over)}, over)
	})
	return b
}

// serveHTTP2 answers requests with their bodies, until the connection ends.
func serveHTTP2(over *tls.Conn) {
	one := &oneConn{conn: over, ended: make(chan struct{})}
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			w.Write(append([]byte("ok"), body...))
		}),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				close(one.ended)
			}
		},
	}
	server.Serve(one)
}

// oneConn is a listener with one connection.
type oneConn struct {
	net.Listener
	conn  net.Conn // nil once accepted
	ended chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if accepted := l.conn; accepted != nil {
		l.conn = nil
		return accepted, nil
	}
	<-l.ended
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error { return nil }

// secureClient makes the requests that its client hands over, over net/http's transport.
type secureClient struct {
	*Client
	stock *http.Transport
	n     *atomic.Int32 // requests handed over
}

func (c secureClient) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := c.Client.RoundTrip(r)
	if over, ok := errors.AsType[*HandedOver](err); ok {
		c.n.Add(1)
		return c.stock.RoundTrip(over.Request)
	}
	return res, err
}

// client returns a client that offers HTTP/2 as well, if both is set.
func (b *secureBackend) client(config *tls.Config, both bool) secureClient {
	stock := &http.Transport{DialContext: b.dial, TLSClientConfig: config}
	if both {
		stock.Protocols = new(http.Protocols)
		stock.Protocols.SetHTTP1(true)
		stock.Protocols.SetHTTP2(true)
		stock.CloseIdleConnections() // sets up HTTP/2, as any first use does
	}
	c := &Client{
		DialContext: b.dial, MaxIdleConnsPerHost: 32, atOnce: patience, TLSClientConfig: stock.TLSClientConfig,
		HandOver: func(host string, made *tls.Conn) {
			b.handed.Add(1)
			stock.TLSNextProto["h2"](host, made)
		},
	}
	b.t.Cleanup(stock.CloseIdleConnections)
	b.t.Cleanup(c.CloseIdleConnections)
	return secureClient{c, stock, &b.streamed}
}

// ask makes a request over TLS and returns the answer's protocol and body.
func ask(t testing.TB, rt http.RoundTripper, method, body string) (proto, got string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("test waited too long"))
	defer cancel()
	r := request(ctx, method, "https://backend/x")
	if body != "" {
		setBody(r, method, body)
	}
	res, err := rt.RoundTrip(r)
	if err != nil {
		return "", "", err
	}
	defer res.Body.Close()
	if res.TLS == nil {
		t.Error("answer does not say that it came over TLS")
	}
	text, err := io.ReadAll(res.Body)
	return res.Proto, string(text), err
}

func always(config *tls.Config) func(int) *tls.Config {
	return func(int) *tls.Config { return config }
}

func answeringTLS(text string) func(int, *peer, *tls.Conn) {
	return func(n int, p *peer, _ *tls.Conn) { answering(text)(n, p) }
}

// One connection serves many requests, with any version of TLS, with or without session tickets.
func TestTLSConnectionsAreKept(t *testing.T) {
	cert, trusted := certificate(t, time.Now().Add(time.Hour))
	for name, config := range map[string]*tls.Config{
		"1.2":                 {MaxVersion: tls.VersionTLS12},
		"1.3":                 {MinVersion: tls.VersionTLS13},
		"1.3 without tickets": {MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true},
		"only HTTP/1.1":       {NextProtos: []string{"http/1.1"}},
	} {
		t.Run(name, func(t *testing.T) {
			config.Certificates = []tls.Certificate{cert}
			b := newSecureBackend(t, always(config), answeringTLS(okay))
			c := b.client(&tls.Config{RootCAs: trusted}, true)
			for range 20 {
				if proto, got, err := ask(t, c, http.MethodGet, ""); proto != "HTTP/1.1" || got != "ok" || err != nil {
					t.Fatalf("%s %q, %v", proto, got, err)
				}
			}
			if b.handshakes.Load() != 1 || b.streamed.Load() != 0 {
				t.Errorf("%d handshakes, %d requests over the transport; want 1, 0", b.handshakes.Load(), b.streamed.Load())
			}
		})
	}
}

// What arrives on an idle connection after the answer decides whether it is used again.
func TestIdleTLS(t *testing.T) {
	cert, trusted := certificate(t, time.Now().Add(time.Hour))
	long := "HTTP/1.1 200 OK\r\nContent-Length: 12000\r\n\r\n" + strings.Repeat("x", 12000)
	for name, test := range map[string]struct {
		then func(p *peer, over *tls.Conn) // after the first answer
		kept bool
	}{
		"nothing":                {func(*peer, *tls.Conn) {}, true},
		"close_notify":           {func(_ *peer, over *tls.Conn) { over.CloseWrite() }, false},
		"end":                    {func(p *peer, over *tls.Conn) { over.NetConn().Close() }, false},
		"another answer":         {func(p *peer, _ *tls.Conn) { p.say(okay) }, false},
		"a byte":                 {func(p *peer, _ *tls.Conn) { p.say("x") }, false},
		"no TLS":                 {func(_ *peer, over *tls.Conn) { io.WriteString(over.NetConn(), "garbage of some length") }, false},
		"a part of a record":     {func(_ *peer, over *tls.Conn) { over.NetConn().Write([]byte{23, 3, 3, 0, 50, 1, 2, 3}) }, false},
		"a part of its header":   {func(_ *peer, over *tls.Conn) { over.NetConn().Write([]byte{23, 3}) }, false},
		"a record without bytes": {func(_ *peer, over *tls.Conn) { over.Write(nil) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			said := make(chan struct{}, 2)
			b := newSecureBackend(t, always(&tls.Config{Certificates: []tls.Certificate{cert}}), func(n int, p *peer, over *tls.Conn) {
				for p.head() != nil {
					p.say(long)
					if n == 1 {
						test.then(p, over)
					}
					said <- struct{}{}
				}
			})
			c := b.client(&tls.Config{RootCAs: trusted}, true)
			for range 2 {
				if _, got, err := ask(t, c, http.MethodGet, ""); len(got) != 12000 || strings.Trim(got, "x") != "" || err != nil {
					t.Fatalf("%d bytes, %v", len(got), err)
				}
				<-said
			}
			want := int32(2)
			if test.kept {
				want = 1
			}
			if got := b.handshakes.Load(); got != want {
				t.Errorf("%d handshakes, want %d", got, want)
			}
		})
	}
}

// Bytes after an answer may be in the same record, so that TLS has read and decrypted them already.
func TestTLSHoldsBytes(t *testing.T) {
	cert, trusted := certificate(t, time.Now().Add(time.Hour))
	for length := range 40 {
		size := 2*defaultBuffer + 100*length
		answer := "HTTP/1.1 200 OK\r\nContent-Length: " + big.NewInt(int64(size)).String() + "\r\n\r\n" + strings.Repeat("x", size)
		b := newSecureBackend(t, always(&tls.Config{Certificates: []tls.Certificate{cert}}), func(n int, p *peer, _ *tls.Conn) {
			for p.head() != nil {
				if n == 1 {
					p.say(answer + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
				} else {
					p.say(okay)
				}
			}
		})
		c := b.client(&tls.Config{RootCAs: trusted}, true)
		res, err := c.RoundTrip(request(t.Context(), http.MethodGet, "https://backend/x"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(res.Body, make([]byte, size)); err != nil { // one large read, which passes the buffer by
			t.Fatal(err)
		}
		if _, err := res.Body.Read(make([]byte, 1)); err != io.EOF {
			t.Fatal(err)
		}
		res.Body.Close()
		if _, got, err := ask(t, c, http.MethodGet, ""); got != "ok" || err != nil {
			t.Fatalf("after %d bytes: %q, %v", size, got, err)
		}
	}
}

// A backend may begin to speak HTTP/2, and stop again. No request is lost, and its body is sent.
func TestProtocolChanges(t *testing.T) {
	cert, trusted := certificate(t, time.Now().Add(time.Hour))
	var h2 atomic.Bool
	b := newSecureBackend(t, func(int) *tls.Config {
		config := &tls.Config{Certificates: []tls.Certificate{cert}}
		if h2.Load() {
			config.NextProtos = []string{"h2", "http/1.1"}
		}
		return config
	}, func(_ int, p *peer, _ *tls.Conn) {
		lines, body := p.head(), ""
		if lines != nil && strings.HasPrefix(lines[0], "POST") {
			body = "body"
			io.CopyN(io.Discard, p.br, int64(len(body)))
		}
		p.say("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok" + body)
	})
	c := b.client(&tls.Config{RootCAs: trusted}, true)
	for _, step := range []struct {
		h2    bool
		proto string
		dials int
	}{{false, "HTTP/1.1", 2}, {true, "HTTP/2.0", 2}, {false, "HTTP/1.1", 2}, {true, "HTTP/2.0", 2}} {
		h2.Store(step.h2)
		before := b.dials()
		for method, body := range map[string]string{http.MethodGet: "", http.MethodPost: "body"} {
			if proto, got, err := ask(t, c, method, body); proto != step.proto || got != "ok"+body || err != nil {
				t.Fatalf("%s: %s %q, %v; want %s", method, proto, got, err, step.proto)
			}
		}
		if got := b.dials() - before; got != step.dials {
			t.Errorf("%d connections, want %d", got, step.dials)
		}
	}
	if b.handed.Load() != 4 || b.streamed.Load() != 4 {
		t.Errorf("%d connections and %d requests handed over, want 4, 4", b.handed.Load(), b.streamed.Load())
	}
}

// Without HTTP/2 among the client's versions nothing is offered, so a backend that could speak it does not.
func TestOnlyHTTP1(t *testing.T) {
	cert, trusted := certificate(t, time.Now().Add(time.Hour))
	b := newSecureBackend(t, always(&tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}}), answeringTLS(okay))
	c := b.client(&tls.Config{RootCAs: trusted}, false)
	if proto, got, err := ask(t, c, http.MethodGet, ""); proto != "HTTP/1.1" || got != "ok" || err != nil || b.handed.Load() != 0 {
		t.Errorf("%s %q, %v, %d handed over", proto, got, err, b.handed.Load())
	}
}

// Handshakes fail as those of net/http's transport do.
func TestTLSFailures(t *testing.T) {
	cert, trusted := certificate(t, time.Now().Add(time.Hour))
	expired, trustedExpired := certificate(t, time.Now().Add(-time.Hour))
	server := func(change func(c *tls.Config)) func(int) *tls.Config {
		config := &tls.Config{Certificates: []tls.Certificate{cert}}
		change(config)
		return always(config)
	}
	same := func(*tls.Config) {}
	asks := func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, trusted }
	for name, test := range map[string]struct {
		config func(int) *tls.Config
		client *tls.Config
		wrong  func(err error) bool // nil if the request succeeds
	}{
		"trusted":   {server(same), &tls.Config{RootCAs: trusted}, nil},
		"untrusted": {server(same), &tls.Config{}, is[*tls.CertificateVerificationError]},
		"unchecked": {server(same), &tls.Config{InsecureSkipVerify: true}, nil},
		"expired": {
			server(func(c *tls.Config) { c.Certificates = []tls.Certificate{expired} }), &tls.Config{RootCAs: trustedExpired}, is[*tls.CertificateVerificationError],
		},
		"other name":  {server(same), &tls.Config{RootCAs: trusted, ServerName: "other"}, is[*tls.CertificateVerificationError]},
		"no version":  {server(func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }), &tls.Config{RootCAs: trusted, MaxVersion: tls.VersionTLS12}, is[*net.OpError]},
		"client":      {server(asks), &tls.Config{RootCAs: trusted, Certificates: []tls.Certificate{cert}}, nil},
		"no client":   {server(asks), &tls.Config{RootCAs: trusted}, isAlert},
		"client, 1.2": {server(func(c *tls.Config) { asks(c); c.MaxVersion = tls.VersionTLS12 }), &tls.Config{RootCAs: trusted}, isAlert},
	} {
		t.Run(name, func(t *testing.T) {
			b := newSecureBackend(t, test.config, answeringTLS(okay))
			c := b.client(test.client, true)
			for name, rt := range map[string]http.RoundTripper{"engine": c, "net/http": c.stock} {
				_, _, err := ask(t, rt, http.MethodGet, "")
				// Instead of an alert, net/http may return the error of a write that failed because of it.
				if (test.wrong == nil) != (err == nil) || err != nil && rt == c && !test.wrong(err) {
					t.Errorf("%s: %T %v", name, err, err)
				}
			}
		})
	}
	t.Run("no TLS", func(t *testing.T) {
		b := newBackend(t, func(_ int, p *peer) {
			p.say("HTTP/1.1 400 Bad Request\r\n\r\n")
			p.head()
		})
		c := &Client{DialContext: b.dial}
		if _, _, err := ask(t, c, http.MethodGet, ""); !is[tls.RecordHeaderError](err) {
			t.Errorf("%T %v", err, err)
		}
	})
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// A handshake is bounded, and ends with its request.
func TestTLSHandshakeEnds(t *testing.T) {
	b := newBackend(t, func(_ int, p *peer) { io.Copy(io.Discard, p) })
	c := &Client{DialContext: b.dial, TLSHandshakeTimeout: time.Millisecond}
	if _, _, err := ask(t, c, http.MethodGet, ""); !errors.Is(err, errHandshakeTimeout) || !strings.Contains(err.Error(), "TLS handshake timeout") {
		t.Errorf("%T %v", err, err)
	}
	c.TLSHandshakeTimeout = patience
	left := errors.New("client left")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(10*time.Millisecond, func() { cancel(left) })
	if _, err := c.RoundTrip(request(ctx, http.MethodGet, "https://backend/")); !errors.Is(err, left) {
		t.Errorf("%T %v", err, err)
	}
}

// A kept connection that the backend has closed meanwhile is not an error.
func TestStaleTLSConnection(t *testing.T) {
	cert, trusted := certificate(t, time.Now().Add(time.Hour))
	b := newSecureBackend(t, always(&tls.Config{Certificates: []tls.Certificate{cert}}), func(n int, p *peer, over *tls.Conn) {
		for p.head() != nil {
			p.say(okay)
			if n == 1 {
				p.head() // the second request is not answered
				over.Close()
				return
			}
		}
	})
	c := b.client(&tls.Config{RootCAs: trusted}, true)
	for range 3 {
		if _, got, err := ask(t, c, http.MethodGet, ""); got != "ok" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if got := b.handshakes.Load(); got != 2 {
		t.Errorf("%d handshakes, want 2", got)
	}
}

// The body of a request that is handed over is complete, also if a kept connection took a part of it before.
func TestHandedOverBodies(t *testing.T) {
	cert, trusted := certificate(t, time.Now().Add(time.Hour))
	for name, length := range map[string]int{"none": 0, "small": 10, "whole": 50 << 10, "long": 300 << 10} {
		for _, chunked := range []bool{false, true} {
			for _, stale := range []bool{false, true} {
				b := newSecureBackend(t, func(n int) *tls.Config {
					config := &tls.Config{Certificates: []tls.Certificate{cert}}
					if n > 1 || !stale {
						config.NextProtos = []string{"h2"}
					}
					return config
				}, func(_ int, p *peer, over *tls.Conn) {
					p.head()
					p.say(okay)
					p.head() // and nothing is answered
				})
				c := b.client(&tls.Config{RootCAs: trusted}, true)
				if stale {
					if _, got, err := ask(t, c, http.MethodGet, ""); got != "ok" || err != nil {
						t.Fatalf("%q, %v", got, err)
					}
				}
				body := strings.Repeat("x", length)
				r := request(t.Context(), http.MethodPost, "https://backend/x")
				r.Header.Set("Idempotency-Key", "1")
				setBody(r, http.MethodPost, body)
				if chunked {
					r.ContentLength = -1
				}
				res, err := c.RoundTrip(r)
				if err != nil {
					t.Fatalf("%s, chunked %v, stale %v: %v", name, chunked, stale, err)
				}
				got, err := io.ReadAll(res.Body)
				res.Body.Close()
				if string(got) != "ok"+body || err != nil || b.streamed.Load() != 1 {
					t.Errorf("%s, chunked %v, stale %v: %d bytes, %v, %d handed over", name, chunked, stale, len(got), err, b.streamed.Load())
				}
			}
		}
	}
}
