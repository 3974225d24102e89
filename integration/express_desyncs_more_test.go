package integration

import (
	"fmt"
	"strings"
)

func obscureHosts() (all []desync) {
	for _, fields := range []string{
		"", "Host: site.test\r\nHost: site.test", "Host: site.test\r\nHost: other.test", "Host: site.test\r\nhost: other.test", "Host:", "Host:\r\nHost: site.test", "Host: site.test\r\nHost:", "Host : site.test", "Host\t: site.test", " Host: site.test",
		"Host: site.test, other.test", "Host: site.test other.test", "Host: site.test/x000000", "Host: site.test/../b", "Host: a@site.test", "Host: http://site.test", "Host: site.test:80", "Host: site.test:", "Host: site.test:x", "Host: site.test:99999",
		"Host: site.test:80:80", "Host: :80", "Host: [::1]", "Host: [::1", "Host: ::1", "Host: [::1%25eth0]", "Host: site.test.", "Host: SITE.TEST", "Host: site.test#", "Host: site.test?", "Host: site.test\\a", "Host: site.test\x00", "Host: site.test\x00other.test",
		"Host: site.test\x7f", "Host: site.test\xa0", "Host: s\xc3\xaete.test", "Host: site%2etest", "Host: si_te.test", "Host: -", "Host: *", "Host: ..", "Host: 127.0.0.1", "Host: site.test\r\n .other.test", "Host:\r\n site.test", "Host: site.test\nX: y", "Host: site.test\rX: y",
		"X: y\nHost: site.test", "Host: site.test\r\nX-Forwarded-Host: other.test", "Host: site.test\r\nForwarded: host=other.test", "Host: \"site.test\"", "Host: site.test;a", "Host:\tsite.test\t", "Host: <site.test>", "Host: {site.test}", "Host: site|test",
	} {
		for _, line := range []string{plainGet, "GET /x000000/a HTTP/1.0", "GET http://site.test/x000000/a HTTP/1.1", "GET http://other.test/x000000/a HTTP/1.1"} {
			text := line + "\r\n" + fields + "\r\n\r\n"
			if fields == "" {
				text = line + "\r\n\r\n"
			}
			all = append(all, desync{name: fmt.Sprintf("%s, %q", line, fields), text: text})
		}
	}
	return all
}

// namedInConnection are requests that have fields taken away which their framing or their meaning depends on.
func namedInConnection() (all []desync) {
	for _, names := range []string{
		"content-length", "Content-Length", "close, content-length", "content-length, close", "keep-alive, content-length", "transfer-encoding", "Transfer-Encoding, Content-Length", "host", "connection", "x-forwarded-for", "X-Forwarded-Host, X-Forwarded-Proto", "via",
		"cookie", "expect", "te, trailer", "upgrade", "*", "x y", "x\x00", "\"content-length\"", "content-length;q=1", "content-length x", "content-length\tx", ",,content-length,,", "Content-Length\r\nConnection: close", "close\r\nConnection: content-length",
		"x\r\n content-length", "content_length", "user-agent, content-type", strings.Repeat("a,", 500) + "content-length",
	} {
		all = append(all,
			desync{name: fmt.Sprintf("Connection: %.60q of a body", names), text: post(smuggled, "Connection: "+names, "Cookie: a=b", "Content-Type: text/plain", lengthOf(smuggled))},
			desync{name: fmt.Sprintf("Connection: %.60q of chunks", names), text: post(chunk(smuggled)+"0\r\n\r\n", inChunksField, "Connection: "+names, "Cookie: a=b")},
			desync{name: fmt.Sprintf("Connection: %.60q of nothing", names), text: asked(plainGet, "Host: site.test", "Connection: "+names, "Cookie: a=b")},
		)
	}
	for _, fields := range []string{
		"Proxy-Connection: close", "Keep-Alive: timeout=5", "TE: trailers", "TE: chunked", "TE: trailers, chunked", "Trailer: Content-Length", "Trailer: Host", "Upgrade: h2c", "Connection: Upgrade\r\nUpgrade: h2c", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
		"Connection: Upgrade\r\nUpgrade: websocket", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Upgrade: websocket", "Connection: Upgrade", "Connection: upgrade\r\nUpgrade: HTTP/2.0", "Connection: Upgrade\r\nUpgrade: TLS/1.0",
	} {
		all = append(all,
			desync{name: fmt.Sprintf("%q", fields), text: asked(plainGet, "Host: site.test", fields) + smuggled},
			desync{name: fmt.Sprintf("%q of a body", fields), text: post(smuggled, fields, lengthOf(smuggled))},
			desync{name: fmt.Sprintf("%q of chunks", fields), text: post(chunk(smuggled)+"0\r\n\r\n", fields, inChunksField)},
		)
	}
	return all
}

// expectingBodies are requests that ask whether their bodies are wanted, and send them without waiting.
func expectingBodies() (all []desync) {
	for _, field := range []string{
		"Expect: 100-continue", "Expect: 100-Continue", "Expect: 100-continue, x", "Expect: x, 100-continue", "Expect: 200-ok", "Expect:", "Expect: 100-continue\r\nExpect: 100-continue", "Expect: 100-continue\r\nExpect: x", "Expect: y 100-continue", "Expect : 100-continue", "Expect: 100-continue\r\n x", "Expect: \"100-continue\"",
	} {
		for _, path := range []string{"a", "early", "early-close"} {
			early := path != "a"
			all = append(all,
				desync{name: fmt.Sprintf("%q, a body, %s", field, path), text: postTo(path, smuggled, field, lengthOf(smuggled)), early: early},
				desync{name: fmt.Sprintf("%q, chunks, %s", field, path), text: postTo(path, chunk(smuggled)+"0\r\n\r\n", field, inChunksField), early: early},
				desync{name: fmt.Sprintf("%q, no body, %s", field, path), text: postTo(path, smuggled, field), early: early},
				desync{name: fmt.Sprintf("%q, a length of 0, %s", field, path), text: postTo(path, smuggled, field, "Content-Length: 0"), early: early},
			)
		}
		all = append(all,
			desync{name: fmt.Sprintf("%q of GET", field), text: asked(plainGet, "Host: site.test", field) + smuggled},
			desync{name: fmt.Sprintf("%q of GET with a body", field), text: asked(plainGet, "Host: site.test", field, lengthOf(smuggled)) + smuggled},
			desync{name: fmt.Sprintf("%q of HTTP/1.0", field), text: asked("POST /x000000/a HTTP/1.0", "Host: site.test", "Connection: keep-alive", field, lengthOf(smuggled)) + smuggled},
		)
	}
	return all
}

// unexpectedBodies are bodies of requests that have none, as a rule.
func unexpectedBodies() (all []desync) {
	for _, method := range []string{"GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "PUT", "PATCH", "X-OWN", "get"} {
		line := method + " /x000000/a HTTP/1.1"
		all = append(all,
			desync{name: method + " with a body", text: asked(line, "Host: site.test", lengthOf(smuggled)) + smuggled},
			desync{name: method + " with chunks", text: asked(line, "Host: site.test", inChunksField) + chunk(smuggled) + "0\r\n\r\n"},
			desync{name: method + " with a length of 0", text: asked(line, "Host: site.test", "Content-Length: 0") + smuggled},
			desync{name: method + " with chunks of nothing", text: asked(line, "Host: site.test", inChunksField) + "0\r\n\r\n" + smuggled},
			desync{name: method + " without a length", text: asked(line, "Host: site.test") + smuggled},
		)
	}
	return all
}

// earlyAnswers are uploads that are answered before they have been read. What is left of them is no request.
func earlyAnswers() (all []desync) {
	for _, size := range []int{1 << 10, 20 << 10, 100 << 10, 300 << 10, 1 << 20} {
		body := strings.Repeat(smuggled, size/len(smuggled))
		chunks := strings.Repeat(chunk(smuggled), size/len(smuggled)) + "0\r\n\r\n"
		for _, path := range []string{"early", "early-close"} {
			all = append(all,
				desync{name: fmt.Sprintf("/%s of %d bytes", path, size), text: postTo(path, body, lengthOf(body)), early: true},
				desync{name: fmt.Sprintf("/%s of %d bytes in small chunks", path, size), text: postTo(path, chunks, inChunksField), early: true},
				desync{name: fmt.Sprintf("/%s of %d bytes in one chunk", path, size), text: postTo(path, chunk(body)+"0\r\n\r\n", inChunksField), early: true},
				desync{name: fmt.Sprintf("/%s of %d bytes and a broken chunk", path, size), text: postTo(path, chunk(body)+"x\r\n\r\n"+smuggled, inChunksField), early: true},
			)
		}
	}
	return all
}
