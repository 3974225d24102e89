//go:build trust

package integration

import (
	"bufio"
	"cmp"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// over2 is a scenario of one request over HTTP/2 and one answer.
func over2(file, name string, fields [][2]string, bodies []string, answered string, want func(found nearStream, f *farEnds) error) scenario {
	return scenario{name, file, func(s *scene) error {
		f := s.backend(says(answered))
		found, err := s.askHTTP2(s.start("PROXY "+f.addr), fields, false, bodies...)
		if err != nil {
			return err
		}
		return want(found, f)
	}}
}

// http2Scenarios are about HTTP/2 in front of HTTP/1, and about other protocols.
func http2Scenarios() []scenario {
	const h2 = "http-messaging/h2_to_h1.vtc"
	const desync = "http-messaging/h2_desync_attacks.vtc"
	const upgrade = "http-messaging/protocol_upgrade.vtc"
	const sockets = "http-messaging/websocket.vtc"
	const anyway = "this must arrive, whatever the method"
	ok := textAnswer("ok")
	arrives := func(body string) func(nearStream, *farEnds) error {
		return func(found nearStream, f *farEnds) error {
			r, err := f.only()
			if err == nil && (r.body != body || found.reset) {
				err = fmt.Errorf("the backend got the body %q; reset %v", r.body, found.reset)
			}
			return errors.Join(err, found.wants(http.StatusOK, "ok"))
		}
	}
	// no wants the request to be refused, and to reach nobody as a whole.
	no := func(found nearStream, f *farEnds) error {
		if !found.reset && (found.status < http.StatusBadRequest || found.status == http.StatusServiceUnavailable) {
			return fmt.Errorf("status %d; the backend got %s", found.status, f.lines())
		}
		if got := f.lines(); got != "nothing" {
			return fmt.Errorf("the backend got %s", got)
		}
		return nil
	}
	scenarios := []scenario{
		over2(desync, "a path that is none", http2Request("GET", "hello-world"), nil, ok, no),
		over2(desync, "a scheme with a URL in it", [][2]string{{":method", "GET"}, {":scheme", "http://localhost/?"}, {":authority", "hostname"}, {":path", "/"}}, nil, ok, no),
		over2(desync, "a method with a question mark", http2Request("GET?", "/"), nil, ok, no),
		over2(desync, "the authority counts, not the field", http2Request("GET", "/", "host", "other"), nil, ok, func(found nearStream, f *farEnds) error {
			if found.reset {
				return no(found, f) // which is as safe
			}
			r, err := f.only()
			if err == nil && r.field("Host") != "hostname" {
				err = fmt.Errorf("the backend got the host %q", r.field("Host"))
			}
			return errors.Join(err, found.wants(http.StatusOK, "ok"))
		}),
		over2("http-messaging/h1_to_h2_upgrade.vtc", "what looks like a preface", http2Request("PRI", "*"), []string{"SM\r\n\r\n"}, ok, no),
		over2("http-cookies/h2_cookie_concat.vtc", "crumbs of cookies become one field", http2Request("GET", "/", "cookie", "c1=foo", "cookie", "c2=bar", "cookie", "c3=baz"), nil, ok,
			func(found nearStream, f *farEnds) error {
				r, err := f.only()
				if err == nil && r.field("Cookie") != "c1=foo; c2=bar; c3=baz" {
					err = fmt.Errorf("the backend got %q", r.field("Cookie"))
				}
				return errors.Join(err, found.wants(http.StatusOK, "ok"))
			}),
		{"an answer in many chunks, with pauses, arrives whole over HTTP/2", "http-messaging/truncated.vtc", manyChunks},
		{"a protocol of one's own, by GET", upgrade, func(s *scene) error { return upgraded(s, "GET", "") }},
		{"a protocol of one's own, by POST with a body", upgrade, func(s *scene) error { return upgraded(s, "POST", "sent") }},
		wire(upgrade, "an upgrade to h2c does not reach the backend", request("GET /", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"), ok, field("Upgrade", "")),
		{"a WebSocket over HTTP/1.1", sockets, func(s *scene) error {
			b := startSocketBackend(s.t)
			socket, err := openSocket(s.start("PROXY "+b.addr), "/")
			if err != nil {
				return err
			}
			return socket.echo("PING")
		}},
		wire(sockets, "a handshake without a key", request("GET /", "Connection: Upgrade", "Upgrade: websocket"), ok, refusedWith(400)),
		wire(sockets, "an answer to a handshake without what the key must become", request("GET /", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
			"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", fails),
		{"a WebSocket over HTTP/2 to a backend with HTTP/1.1, with a key made for it", sockets, func(s *scene) error {
			found, err := socketOverHTTP2(s, "")
			if err == nil && found.status != http.StatusOK {
				err = fmt.Errorf("status %d", found.status)
			}
			return err
		}},
		{"a WebSocket over HTTP/2 whose backend answers to another key", sockets, func(s *scene) error {
			found, err := socketOverHTTP2(s, "Sec-WebSocket-Accept: invalid\r\n")
			if err == nil && found.status != http.StatusBadGateway {
				err = fmt.Errorf("status %d", found.status)
			}
			return err
		}},
	}
	for _, method := range []string{"GET", "POST"} {
		scenarios = append(scenarios,
			over2(h2, method+" without a body", http2Request(method, "/1"), nil, ok, arrives("")),
			over2(h2, method+" with a length of 0", http2Request(method, "/2", "content-length", "0"), nil, ok, arrives("")),
			over2(h2, method+" with a body", http2Request(method, "/3"), []string{anyway}, ok, arrives(anyway)),
			over2(h2, method+" with more than its length", http2Request(method, "/4", "content-length", "2"), []string{"this is too much"}, ok, func(found nearStream, f *farEnds) error {
				if !found.reset && found.status < http.StatusBadRequest {
					return fmt.Errorf("status %d", found.status)
				}
				return nil
			}),
			over2(h2, method+" with a length that ends in a comma", http2Request(method, "/5", "content-length", "0,"), []string{""}, ok, no),
			over2(h2, method+" with an empty length", http2Request(method, "/6", "content-length", ""), []string{""}, ok, no),
		)
	}
	return scenarios
}

// manyChunks has an answer of twenty chunks, with a pause after every second.
func manyChunks(s *scene) error {
	const n, size = 20, 815
	address := startRaw(s.t, func(conn *net.TCPConn) {
		if readHead(bufio.NewReader(conn)) == "" {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
		for i := range n {
			fmt.Fprintf(conn, "%x\r\n%s\r\n", size, strings.Repeat("x", size))
			if i%2 == 1 {
				time.Sleep(20 * time.Millisecond) // so that the chunks are not read together
			}
		}
		_, _ = io.WriteString(conn, "0\r\n\r\n")
	})
	found, err := s.askHTTP2(s.start("PROXY "+address), http2Request("GET", "/"), false)
	if err != nil {
		return err
	}
	return found.wants(http.StatusOK, strings.Repeat("x", n*size))
}

// upgraded opens a tunnel of a protocol that nobody knows.
func upgraded(s *scene, method, body string) error {
	address := startRaw(s.t, func(conn *net.TCPConn) {
		br := bufio.NewReader(conn)
		head, sent, err := readRequest(br)
		if err != nil || sent != body || strings.Join(fieldValues(head, "Upgrade"), "") != "custom_protocol" {
			_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: custom_protocol\r\n\r\n")
		_, _ = io.Copy(conn, br)
	})
	n := s.dial(s.start("PROXY " + address))
	fields := []string{"Connection: upgrade", "Upgrade: custom_protocol"}
	if body != "" {
		fields = append(fields, fmt.Sprint("Content-Length: ", len(body)))
	}
	a, err := n.ask(request(method+" /", fields...) + body)
	if err != nil {
		return err
	}
	if a.status != http.StatusSwitchingProtocols || a.header.Get("Upgrade") != "custom_protocol" {
		return fmt.Errorf("status %d, upgrade to %q", a.status, a.header.Get("Upgrade"))
	}
	text := make([]byte, 4)
	if _, err = io.WriteString(n.conn, "PING"); err == nil {
		_, err = io.ReadFull(n.br, text)
	}
	if err == nil && string(text) != "PING" {
		err = fmt.Errorf("the tunnel brought %q", text)
	}
	return err
}

// socketOverHTTP2 opens a WebSocket over HTTP/2, at a backend that wants a key. It answers to it, or with this field.
func socketOverHTTP2(s *scene, field string) (nearStream, error) {
	f := s.backend(func(r farRequest) string {
		key := r.field("Sec-WebSocket-Key")
		if key == "" {
			return "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
		}
		sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		accept := cmp.Or(field, "Sec-WebSocket-Accept: "+base64.StdEncoding.EncodeToString(sum[:])+"\r\n")
		return "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + accept + "\r\n"
	})
	c := startCaddyConfig(s.t, s.config("PROXY "+f.addr, "http://SITE_ADDRESS {\n"), extendedConnects)
	return s.askHTTP2(c, [][2]string{
		{":method", "CONNECT"}, {":scheme", "http"}, {":authority", c.site}, {":path", "/"}, {":protocol", "websocket"}, {"sec-websocket-version", "13"},
	}, true)
}
