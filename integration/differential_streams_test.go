package integration

import (
	"fmt"
	"io"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// streamSites have exchanges in which the order of events counts: what is sent by one end waits for what has come at the other.
func streamSites() []site {
	all := append(uploading(), pipelined()...)
	return []site{
		{name: "streams", exchanges: all},
		{name: "streams-over-transport", settings: overTransport, ordered: true, exchanges: all},
		{name: "continues-late", ours: untried, settings: "transport http {\n expect_continue_timeout 1m\n }", exchanges: continuing()},
		{name: "extended-connect", ours: untried, exchanges: []exchange{extendedConnect()}},
		{name: "both-ways", backend: overH2C, settings: "transport http {\n versions h2c\n }", exchanges: []exchange{
			{name: "HTTP/2 both ways", http2: true, request: chunkedRequest("POST", ""), uploads: []string{"abc", "def", "ghi"}, echoes: true},
			{name: "HTTP/2 both ways, for a coding that is the same", http2: true, request: chunkedRequest("POST", "", "Accept-Encoding: identity"), uploads: []string{"abc", "def"}, echoes: true},
		}},
	}
}

// uploading are clients whose requests take their time, or do not end.
func uploading() (all []exchange) {
	for name, request := range map[string]string{
		"sized":     requestHead("POST /pieces HTTP/1.1", "Content-Length: 10"),
		"large":     requestHead("POST /pieces HTTP/1.1", "Content-Length: 100000"),
		"in chunks": chunkedRequest("PUT", ""),
	} {
		some := "abc"
		if name == "in chunks" {
			some = chunk(some)
		}
		all = append(all,
			exchange{name: "left within an upload, " + name, request: request, far: readsAndListens, near: func(c *nearEnd) {
				c.say(c.text(request) + some)
				if !c.uploaded.await(3) {
					c.log.WriteString(timedOut)
				}
			}},
			exchange{name: "left before an upload, " + name, request: request, far: readsAndListens, near: func(c *nearEnd) {
				c.say(c.text(request))
				<-c.events.of("request read")
			}},
		)
	}
	return append(all,
		exchange{name: "pieces and trailers", request: chunkedRequest("PUT", "", "Trailer: X-T"), uploads: []string{chunk("abc"), chunk("def"), "0\r\nX-T: 1\r\n\r\n"}}, // caddy: TestRequestTrailersStreaming
		exchange{name: "pieces, incremental", request: requestHead("POST / HTTP/1.1", "Incremental: ?1", "Content-Length: 6"), uploads: []string{"abc", "def"}},
		exchange{name: "pieces, repeatable", request: requestHead("PUT / HTTP/1.1", "Content-Length: 9"), uploads: []string{"abc", "def", "ghi"}},
	)
}

// readsAndListens is a backend that records what comes until the proxy closes the connection.
func readsAndListens(f *farEnd) {
	head, err := readMessageHead(f.br)
	f.log.WriteString(head)
	tell(f.events.of("request read"))
	if err == nil {
		f.body(head)
	}
}

// pipelined are requests that a client sends without waiting for answers.
func pipelined() []exchange {
	pipeline := func(requests ...string) func(c *nearEnd) {
		return func(c *nearEnd) {
			c.say(c.text(strings.Join(requests, "")))
			for _, request := range requests {
				if c.answer(method(request)); c.over {
					return
				}
			}
			c.end()
		}
	}
	return []exchange{
		{name: "pipelined", near: pipeline(get("/1"), get("/2"), get("/3")), answers: []string{answer("200 OK", "1"), chunkedAnswer("200 OK", inChunks("2")), answer("404 Not Found", "3")}},
		{name: "pipelined, with bodies", near: pipeline(sized("POST", "one"), sized("PUT", "two"), requestHead("HEAD / HTTP/1.1")), answers: []string{ok200, ok200, answerHead("200 OK", typed, "Content-Length: 2")}},
		{name: "pipelined, the first to be closed", near: pipeline(get("/1", "Connection: close"), get("/2"))},
		{name: "pipelined behind a malformed one", near: pipeline(get("/1"), "nonsense\r\n\r\n"), answers: []string{ok200}},
	}
}

// continuing are requests whose bodies wait for the backend's word, and answers in its place.
func continuing() []exchange {
	expecting := requestHead("POST /upload HTTP/1.1", "Content-Length: 4", "Expect: 100-continue")
	return []exchange{
		{name: "told to", request: expecting, uploads: []string{"body"}, waits: true, continues: true},
		{name: "told to after 103", request: expecting, uploads: []string{"body"}, waits: true, far: func(f *farEnd) {
			head, _ := readMessageHead(f.br)
			f.log.WriteString(head)
			f.say("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
			f.body(head)
			f.say(ok200)
		}},
		// httputil: TestReverseProxyInvalidUpstream100ContinueDoNotHang. A client that waits would wait in vain, with either directive: the
		// server does not answer before it has the body.
		{name: "refused", request: sized("POST", "body", "Expect: 100-continue"), early: true, answer: answer("417 Expectation Failed", "no", "Connection: close"), then: listens, blind: true},
		{name: "closed", request: sized("POST", "body", "Expect: 100-continue"), early: true, answer: none, then: hangsUp, blind: true},
	}
}

// extendedConnect is a WebSocket over HTTP/2 (RFC 8441), whose client's side cannot be half closed. httputil: TestReverseProxyUpgradeNoCloseWrite
func extendedConnect() exchange {
	return exchange{name: "extended CONNECT", request: "", randomKey: true,
		near: func(c *nearEnd) {
			_, _ = io.WriteString(c.conn, http2.ClientPreface)
			framer := http2.NewFramer(c.conn, c.br)
			framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
			_ = framer.WriteSettings()
			var block strings.Builder
			encoder := hpack.NewEncoder(&block)
			for _, field := range [][2]string{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "http"}, {":path", "/socket"}, {":authority", c.host}, {"sec-websocket-version", "13"}, {"user-agent", "test"}} {
				_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
			}
			_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String()), EndHeaders: true})
			for heard := 0; ; {
				frame, err := framer.ReadFrame()
				if err != nil {
					c.log.WriteString(broken(err) + "\n")
					return
				}
				switch frame := frame.(type) {
				case *http2.SettingsFrame:
					if value, ok := frame.Value(http2.SettingEnableConnectProtocol); ok {
						fmt.Fprintf(&c.log, "extended CONNECT %d\n", value)
					}
					if !frame.IsAck() {
						_ = framer.WriteSettingsAck()
					}
				case *http2.MetaHeadersFrame:
					for _, field := range frame.Fields {
						fmt.Fprintf(&c.log, "%s: %s\r\n", fieldName(field.Name), field.Value)
					}
					_ = framer.WriteData(1, false, []byte("ping"))
				case *http2.DataFrame:
					c.log.Write(frame.Data())
					if heard += len(frame.Data()); heard == 4 {
						_ = framer.WriteData(1, true, nil)
					}
				case *http2.RSTStreamFrame:
					fmt.Fprintf(&c.log, "[reset] %v\n", frame.ErrCode)
					return
				case *http2.GoAwayFrame:
					fmt.Fprintf(&c.log, "[go away] %v\n", frame.ErrCode)
					return
				}
				if frame.Header().StreamID == 1 && frame.Header().Flags.Has(http2.FlagDataEndStream) {
					c.log.WriteString("[end]\n")
					return
				}
			}
		},
		far: switching(switched, func(f *farEnd) {
			f.hear(4)
			f.say("pong")
			f.hearOut()
		})}
}

// fieldName writes the name that is looked for as HTTP/1.1 does.
func fieldName(name string) string {
	if name == "date" {
		return "Date"
	}
	return name
}

// echoing is the body of a client that speaks HTTP/2, each piece of which is sent when the one before has come back.
func (r *run) echoing() io.Reader {
	reader, writer := io.Pipe()
	go func() {
		sent := 0
		for _, piece := range r.x.uploads {
			if !r.downloaded.await(sent) {
				writer.CloseWithError(fmt.Errorf("%s after %v", timedOut, differentialPatience))
				return
			}
			if _, err := io.WriteString(writer, piece); err != nil {
				return
			}
			sent += len(piece)
		}
		if r.downloaded.await(sent) {
			writer.Close()
		} else {
			writer.CloseWithError(fmt.Errorf("%s after %v", timedOut, differentialPatience))
		}
	}()
	return reader
}
