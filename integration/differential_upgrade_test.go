package integration

import (
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
)

const (
	webSocket = "GET /socket HTTP/1.1\r\nHost: SITE\r\nUser-Agent: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
	switched  = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)

// upgradeSites have requests for another protocol.
func upgradeSites() []site {
	all := append(tunnels(), upgrades()...)
	sites := []site{
		{name: "upgrades", ours: untried, exchanges: all},
		{name: "upgrades-over-transport", ours: untried, settings: overTransport, ordered: true, exchanges: all},
		{name: "upgrades-tls", ours: untried, tls: true, exchanges: tunnels()},
		{name: "upgrades-to-tls", ours: untried, backend: rawTLS, settings: "transport http {\n tls_insecure_skip_verify\n }", exchanges: tunnels()[:1]},
		{name: "upgrades-to-socket", ours: untried, backend: rawUnix, exchanges: tunnels()[:2]},
	}
	for _, s := range settingsOf("header_up X-Add-Header 1\n header_down X-Down 1\n header_down -Sec-WebSocket-Accept", "stream_timeout 1h\n stream_buffer_size 1KiB", "stream_close_delay 1h\n flush_interval -1", "request_buffers 4KiB",
		"handle_response {\n copy_response\n }", "method POST\n rewrite /elsewhere", "header_up Connection close", "header_up -Upgrade", "verbose_logs", "transport http {\n keepalive off\n }") {
		s.name, s.ours = "upgrades-"+siteName(s.settings), untried
		s.exchanges = []exchange{tunnels()[0], {name: "refused", request: webSocket, answer: answer("403 Forbidden", "no")}}
		if strings.Contains(s.settings, "Connection close") { // the backend switches all the same
			s.exchanges[0].differs = []string{"switch of protocols that was not asked for"}
		}
		sites = append(sites, s)
	}
	return sites
}

// tunnels are upgrades that are made, and what is said then.
func tunnels() []exchange {
	return []exchange{
		{name: "said in turn, left by the client", request: webSocket, // httputil: TestReverseProxyWebSocket
			near: tunnelling("", func(c *nearEnd) {
				c.say("ping")
				c.hear(4)
				c.say(filled(100 << 10))
				c.hear(100 << 10)
				c.halfClose()
				c.hearOut()
			}),
			far: switching(switched, func(f *farEnd) {
				f.hear(4)
				f.say("pong")
				f.hear(100 << 10)
				f.say(filled(100 << 10))
				f.hearOut()
				f.say("bye")
			})},
		{name: "left by the backend", request: webSocket, // httputil: TestReverseProxyWebSocketHalfTCP; caddy: TestHandlerUpgradedStreamHalfClose
			near: tunnelling("", func(c *nearEnd) {
				c.hearOut()
				c.say("late")
				c.halfClose()
			}),
			far: switching(switched, func(f *farEnd) {
				f.say("all that there is")
				f.halfClose()
				f.hearOut()
			})},
		{name: "bytes behind the request", request: webSocket, // which the server has read with it
			near: tunnelling("eager", func(c *nearEnd) {
				c.hear(5)
				c.halfClose()
				c.hearOut()
			}),
			far: switching(switched, func(f *farEnd) {
				f.hear(5)
				f.say("heard")
				f.hearOut()
			})},
		{name: "bytes behind the answer", request: webSocket,
			near: tunnelling("", func(c *nearEnd) {
				c.hear(5)
				c.halfClose()
				c.hearOut()
			}),
			far: switching(switched+"eager", func(f *farEnd) { f.hearOut() })},
		{name: "the client goes", request: webSocket, // httputil: TestReverseProxyWebSocketCancellation
			near: tunnelling("", func(c *nearEnd) { c.say("gone") }),
			far:  switching(switched, func(f *farEnd) { f.hearOut() })},
		{name: "the backend goes", request: webSocket,
			near: tunnelling("", func(c *nearEnd) {
				c.hear(4)
				c.halfClose()
				c.hearOut()
			}),
			far: switching(switched, func(f *farEnd) { f.say("gone") })},
	}
}

// upgrades are asked for, or granted, in odd ways.
func upgrades() []exchange {
	ask := func(fields ...string) string { return requestHead("GET /socket HTTP/1.1", fields...) }
	grant := func(fields ...string) string { return answerHead("101 Switching Protocols", fields...) }
	short := func(name, request, answer string) exchange {
		return exchange{name: name, request: request,
			near: tunnelling("", func(c *nearEnd) {
				c.say("ping")
				c.hear(4)
				c.halfClose()
				c.hearOut()
			}),
			far: switching(answer, func(f *farEnd) {
				f.hear(4)
				f.say("pong")
				f.hearOut()
			})}
	}
	refused := func(name, request, answer string, differs ...string) exchange {
		return exchange{name: name, request: request, answer: answer, then: hangsUp, differs: differs}
	}
	const unasked = "switch of protocols that was not asked for"
	return []exchange{
		short("another protocol", ask("Connection: Upgrade", "Upgrade: foo/2"), grant("Connection: Upgrade", "Upgrade: foo/2")),
		short("odd case", ask("connection: upgrade", "UPGRADE: WebSocket"), grant("connection: uPGRADE", "upgrade: WEBSOCKET")),
		short("among others", ask("Connection: keep-alive, Upgrade", "Upgrade: websocket", "Keep-Alive: timeout=5"), grant("Connection: keep-alive, Upgrade", "Upgrade: websocket")),
		short("several upgrades", ask("Connection: Upgrade", "Upgrade: websocket", "Upgrade: other"), grant("Connection: Upgrade", "Upgrade: websocket")),
		short("h2c", ask("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"), grant("Connection: Upgrade", "Upgrade: h2c")),
		// caddy: TestFinalizeResponse_101_StripsHopByHopHeaders, TestFinalizeResponse_101_StripsConnectionNamedHeaders
		short("granted with hop-by-hop", webSocket, grant("Connection: Upgrade, X-Foo", "Upgrade: websocket", "X-Foo: 1", "Keep-Alive: x", "Proxy-Authenticate: y", "TE: z", "Trailer: t", "X-Kept: 1")),
		refused("granted without Connection", webSocket, grant("Upgrade: websocket"), unasked),
		short("granted with cookies", webSocket, grant("Connection: Upgrade", "Upgrade: websocket", "Set-Cookie: a=b", "Set-Cookie: c=d", "Server: inner", "Via: 1.1 inner")),
		short("granted with a length", webSocket, grant("Connection: Upgrade", "Upgrade: websocket", "Content-Length: 0")),
		short("names of WebSocket", ask("Connection: Upgrade", "Upgrade: websocket", "sec-websocket-key: a", "sec-websocket-protocol: p, q", "Sec-WebSocket-Extensions: e", "Sec-Websocket-Unknown: 1"),
			grant("Connection: Upgrade", "Upgrade: websocket", "sec-websocket-accept: a", "Sec-Websocket-Protocol: q")), // caddy: TestReverseProxyNormalizeWebSocketHeaders
		short("after 103", webSocket, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"+switched),
		refused("refused", webSocket, answer("403 Forbidden", "no")),
		refused("to be upgraded", webSocket, answer("426 Upgrade Required", "no", "Upgrade: foo", "Connection: Upgrade")),
		refused("answered 200 with Upgrade", webSocket, answer("200 OK", "no", "Upgrade: websocket", "Connection: Upgrade")),
		refused("answered in chunks", webSocket, chunkedAnswer("400 Bad Request", inChunks("no"))),
		refused("closed", webSocket, none),
		refused("HTTP/1.0", requestHead("GET /socket HTTP/1.0", "Connection: Upgrade", "Upgrade: websocket"), ok200),
		refused("POST", sized("POST", "body", "Connection: Upgrade", "Upgrade: websocket"), ok200),
		refused("non-ASCII", ask("Connection: Upgrade", "Upgrade: caf\xe9"), ok200),
		refused("empty", ask("Connection: Upgrade", "Upgrade:"), ok200),
		refused("without Connection", ask("Upgrade: websocket"), ok200),
		refused("unasked", get("/"), switched, unasked),
		refused("unasked, without Upgrade", get("/"), grant(), unasked), // caddy: TestFinalizeResponse_101_NoUpgradeRequest
		refused("another than asked", webSocket, grant("Connection: Upgrade", "Upgrade: h2c"), unasked),
		refused("without Upgrade", webSocket, grant(), unasked),
		refused("non-ASCII granted", webSocket, grant("Connection: Upgrade", "Upgrade: \x80"), unasked),
	}
}

// tunnelling is a client that asks for an upgrade, and says more behind its request. If it gets one it goes on.
func tunnelling(behind string, then func(c *nearEnd)) func(c *nearEnd) {
	return func(c *nearEnd) {
		_, _ = io.WriteString(c.conn, c.text(c.x.request)+behind)
		if c.answer("GET"); c.over {
			return
		}
		if !strings.Contains(c.log.String(), "HTTP/1.1 101 ") {
			c.end()
			return
		}
		c.log.WriteString("[tunnel]\n")
		then(c)
	}
}

// switching is a backend that grants an upgrade and goes on.
func switching(answer string, then func(f *farEnd)) func(f *farEnd) {
	return func(f *farEnd) {
		head, err := readMessageHead(f.br)
		f.log.WriteString(head)
		if err != nil {
			return
		}
		if len(fieldValues(head, "Upgrade")) == 0 {
			_, _ = io.WriteString(f.conn, ok200)
			return
		}
		_, _ = io.WriteString(f.conn, answer)
		f.log.WriteString("[tunnel]\n")
		then(f)
	}
}

func (c *nearEnd) say(text string) { _, _ = io.WriteString(c.conn, text) }
func (f *farEnd) say(text string)  { _, _ = io.WriteString(f.conn, text) }
func (c *nearEnd) hear(n int)      { c.log.WriteString(heard(c.br, n)) }
func (f *farEnd) hear(n int)       { f.log.WriteString(heard(f.br, n)) }
func (c *nearEnd) hearOut()        { c.log.WriteString(heardOut(c.br)) }
func (f *farEnd) hearOut()         { f.log.WriteString(heardOut(f.br)) }
func (c *nearEnd) halfClose()      { halfClose(c.conn) }
func (f *farEnd) halfClose()       { halfClose(f.conn) }

func halfClose(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// heard is so much of what is said in a tunnel.
func heard(r io.Reader, n int) string {
	text := make([]byte, n)
	got, err := io.ReadFull(r, text)
	if err != nil {
		return "[heard] " + showBody(text[:got]) + " " + broken(err) + "\n"
	}
	return "[heard] " + showBody(text) + "\n"
}

// heardOut is the rest of it.
func heardOut(r io.Reader) string {
	text, err := io.ReadAll(r)
	if err == nil {
		err = io.EOF
	}
	if errors.Is(err, net.ErrClosed) {
		err = io.EOF
	}
	return "[heard] " + strconv.Itoa(len(text)) + ", " + showBody(text) + " " + broken(err) + "\n"
}
