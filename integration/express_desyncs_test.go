package integration

import (
	"fmt"
	"slices"
	"strings"
)

// smuggled is a request that hides in a body. It is a request wherever in its method it begins.
var smuggled = strings.Repeat("G", 8) + " /x000000/smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n"

// desyncs are the forms that are known.
func desyncs() []desync {
	all := slices.Concat(lengthsAndChunks(), obscureCodings(), obscureLengths(), obscureChunks(), obscureLines(), obscureFirstLines(), obscureHosts(), namedInConnection(), expectingBodies(), unexpectedBodies(), earlyAnswers())
	names := map[string]int{}
	for i := range all {
		if names[all[i].name]++; names[all[i].name] > 1 {
			all[i].name += fmt.Sprintf(" (%d)", names[all[i].name])
		}
	}
	return all
}

// post is a POST with these fields and what follows them.
func post(after string, fields ...string) string { return postTo("a", after, fields...) }

func postTo(path, after string, fields ...string) string {
	return "POST /x000000/" + path + " HTTP/1.1\r\nHost: site.test\r\n" + lines(fields) + "\r\n" + after
}

// asked is a request of that first line and these fields.
func asked(line string, fields ...string) string {
	return line + "\r\n" + lines(fields) + "\r\n"
}

const plainGet = "GET /x000000/a HTTP/1.1"

func lengthOf(body string) string { return fmt.Sprintf("Content-Length: %d", len(body)) }

const inChunksField = "Transfer-Encoding: chunked"

func lengthsAndChunks() (all []desync) {
	ended := "0\r\n\r\n" + smuggled
	hidden := chunk(smuggled) + "0\r\n\r\n"
	for _, body := range []string{ended, hidden, "0\r\n\r\nG", chunk("abc") + "0\r\n\r\n"} {
		for name, length := range map[string]string{"all": lengthOf(body), "some": "Content-Length: 4", "none": "Content-Length: 0"} {
			all = append(all,
				desync{name: "CL.TE, length of " + name, text: post(body, length, inChunksField)},
				desync{name: "TE.CL, length of " + name, text: post(body, inChunksField, length)},
				desync{name: "CL.TE.CL, length of " + name, text: post(body, length, inChunksField, length)},
				desync{name: "CL.TE of HTTP/1.0, length of " + name, text: asked("POST /x000000/a HTTP/1.0", "Host: site.test", "Connection: keep-alive", length, inChunksField) + body},
			)
		}
	}
	return all
}

// obscureCodings are ways to have one of two parsers overlook that a body is in chunks.
func obscureCodings() (all []desync) {
	for _, field := range []string{
		"Transfer-Encoding: xchunked", "Transfer-Encoding : chunked", "Transfer-Encoding\t: chunked", "Transfer-Encoding:\tchunked", "Transfer-Encoding:chunked", "Transfer-Encoding:  chunked  ", " Transfer-Encoding: chunked",
		"\tTransfer-Encoding: chunked", "X: y\n" + inChunksField, "X: y\r" + inChunksField, "X: y\r\r\n" + inChunksField, "Transfer-Encoding\r\n : chunked", "Transfer-Encoding:\r\n chunked", "Transfer-Encoding: \r\n\tchunked",
		"Transfer-Encoding: chunked, identity", "Transfer-Encoding: identity, chunked", "Transfer-Encoding: identity", "Transfer-Encoding: CHUNKED", "transfer-encoding: Chunked", "TRANSFER-ENCODING: chunked",
		"Transfer-Encoding: chunked chunked", "Transfer-Encoding: \x0bchunked", "Transfer-Encoding: chunked\x0b", "Transfer-Encoding: chunked\x0c", "Transfer-Encoding: chunked;q=1", "Transfer-Encoding: \"chunked\"",
		"Transfer-Encoding: 'chunked'", "Transfer-Encoding: chunked,", "Transfer-Encoding: ,chunked", "Transfer-Encoding: chunked, chunked", inChunksField + "\r\n" + inChunksField, inChunksField + "\r\nTransfer-Encoding: x",
		"Transfer-Encoding: x\r\n" + inChunksField, "Transfer-Encoding:\r\n" + inChunksField, inChunksField + "\r\nTransfer-Encoding:", "Transfer-Encoding: identity\r\n" + inChunksField, "Transfer_Encoding: chunked",
		"Transfer.Encoding: chunked", "Transfer Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: gzip", "Transfer-Encoding: chunked, gzip", "Transfer-Encoding:", "Transfer-Encoding: chunked\x00",
		"Transfer-Encoding\x00: chunked", "Transfer-Encoding: chunked\xa0", "Transfer-Encoding: \xa0chunked", "Transfer-Encoding\xa0: chunked", "Transfer-Encoding: chunke\xc4\x8d", "Transfer-Encoding: chunke\xe2\x84\xaa", "Transfer-Encoding=chunked",
		"Transfer-Encoding", "X: y\r\n " + inChunksField, "\x00" + inChunksField, "Transfer-Encoding: chunked\r", "Transfer-Encoding: chunked\n", "Content-Encoding: chunked", "TE: chunked", "Trailer: Transfer-Encoding",
	} {
		body, path := "0\r\n\r\n"+smuggled, "a"
		blind := strings.HasSuffix(field, "\n") // the head ends there, and no chunk follows
		if blind {
			path = "blind"
		}
		all = append(all,
			desync{name: fmt.Sprintf("%q", field), text: postTo(path, body, field), blind: blind},
			desync{name: fmt.Sprintf("%q behind a length", field), text: postTo(path, body, lengthOf(body), field), blind: blind},
			desync{name: fmt.Sprintf("%q before a length", field), text: postTo(path, body, field, lengthOf(body)), blind: blind},
			desync{name: fmt.Sprintf("%q beside chunks", field), text: postTo(path, body, inChunksField, field), blind: blind},
		)
	}
	return all
}

// obscureLengths are lengths that one parser might read in another way than another. Each is of the first five bytes of what follows.
func obscureLengths() (all []desync) {
	for _, fields := range []string{
		"Content-Length: 5\r\nContent-Length: 5", "Content-Length: 5\r\nContent-Length: 6", "Content-Length: 6\r\nContent-Length: 5", "Content-Length: 5\r\nContent-Length: 0", "Content-Length: 0\r\nContent-Length: 5",
		"Content-Length: 5, 5", "Content-Length: 5,5", "Content-Length: 5, 6", "Content-Length: 5,", "Content-Length: ,5", "Content-Length: 5\r\nContent-Length:", "Content-Length:\r\nContent-Length: 5",
		"Content-Length: +5", "Content-Length: -5", "Content-Length: -0", "Content-Length: 0x5", "Content-Length: 05", "Content-Length: 0000000000000000000000005", "Content-Length: 5.0", "Content-Length: 5e0", "Content-Length: 5;",
		"Content-Length:5", "Content-Length:   5   ", "Content-Length:\t5\t", "Content-Length: 5 5", "Content-Length: 1_0", "Content-Length: \"5\"", "Content-Length: '5'", "Content-Length:", "Content-Length: a", "Content-Length: \x0b5", "Content-Length: 5\x0b",
		"Content-Length: 5\x00", "Content-Length: \xef\xbc\x95", "Content-Length: 5\xa0", "Content-Length: 99999999999999999999", "Content-Length: 9223372036854775808", "Content-Length: 18446744073709551621", "Content-Length: 4294967301x",
		"Content-Length : 5", "Content-Length\t: 5", "Content_Length: 5", "Content.Length: 5", "Content Length: 5", "content-length: 5", "CONTENT-LENGTH: 5", "Content-Length\x00: 5", "Content-Length\xa0: 5", "\x00Content-Length: 5", " Content-Length: 5",
		"Content-Length:\r\n 5", "Content-Length: \r\n\t5", "Content-Length: 5\r\n 6", "Content-Length\r\n : 5", "X: y\nContent-Length: 5", "X: y\rContent-Length: 5", "X: y\r\n Content-Length: 5", "Content-Length: 5\r", "Content-Length=5", "Content-Length",
		"Trailer: Content-Length\r\nContent-Length: 5",
	} {
		all = append(all,
			desync{name: fmt.Sprintf("%q", fields), text: post("abcde"+smuggled, fields)},
			desync{name: fmt.Sprintf("%q, nothing but a request", fields), text: post(smuggled, fields)},
			desync{name: fmt.Sprintf("%q of GET", fields), text: asked(plainGet, "Host: site.test", fields) + "abcde" + smuggled},
		)
	}
	return append(all,
		desync{name: "no length, nothing but a request", text: post(smuggled)},
		desync{name: "length of nothing, and a request", text: post(smuggled, "Content-Length: 0")},
		desync{name: "length of a request", text: post(smuggled, lengthOf(smuggled))},
		desync{name: "length of a request and one more", text: post(smuggled, lengthOf(smuggled+"G"))},
		desync{name: "length of a request and one less", text: post(smuggled, lengthOf(smuggled[1:]))},
	)
}

// obscureChunks are bodies in chunks that one parser might read in another way than another.
func obscureChunks() (all []desync) {
	whole := func(body string) {
		all = append(all, desync{name: fmt.Sprintf("chunks %.60q", body), text: post(body+smuggled, inChunksField)})
	}
	broken := func(body string) {
		all = append(all, desync{name: fmt.Sprintf("broken chunks %.60q", body), text: postTo("blind", body+smuggled, inChunksField), blind: true})
	}
	whole("3\r\nabc\r\n0\r\n\r\n")
	whole("03\r\nabc\r\n00\r\n\r\n")
	whole("0000000000000003\r\nabc\r\n0\r\n\r\n")
	whole("A\r\n0123456789\r\n0\r\n\r\n")
	whole("a\r\n0123456789\r\n0\r\n\r\n")
	whole("3;ext\r\nabc\r\n0;ext=1\r\n\r\n")
	whole("3;ext=\"a;b\"\r\nabc\r\n0\r\n\r\n")
	whole("3;" + strings.Repeat("e", 1000) + "\r\nabc\r\n0\r\n\r\n")
	whole("0\r\nX-T: 1\r\n\r\n")
	whole("3\r\nabc\r\n0\r\nX-T: 1\r\nX-U: 2\r\n\r\n")
	whole(chunk(smuggled) + "0\r\n\r\n")
	whole(chunk("0\r\n\r\n"+smuggled) + "0\r\n\r\n")
	whole(chunk("0\r\n") + chunk("\r\n") + "0\r\n\r\n")
	for _, size := range []string{"+3", "-3", "0x3", "0X3", " 3", "\t3", "3 ", "3\t", "3 ;a", "3\x0b", "3\x00", "3,", "3.", "3h", "3\"", "g", "", "_3", "3_", "\xef\xbc\x93", "00000000000000003", "10000000000000003", "fffffffffffffffff", "3;a\x00", "3;a\rb", "3\r;a"} {
		broken(size + "\r\nabc\r\n0\r\n\r\n")
	}
	for _, body := range []string{
		"3\nabc\r\n0\r\n\r\n", "3\rabc\r\n0\r\n\r\n", "3;\nabc\r\n0\r\n\r\n", "3;a\nabc\r\n0\r\n\r\n", "3\r\nabc\n0\r\n\r\n", "3\r\nabc0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n", "3\r\nab\r\n0\r\n\r\n", "3\r\nabc\r0\r\n\r\n", "3\r\nabc\r\n\r\n0\r\n\r\n",
		"3\r\r\nabc\r\n0\r\n\r\n", "\r\n3\r\nabc\r\n0\r\n\r\n", "3\r\nabcXX0\r\n\r\n", "0\n\n", "0\r\n\n", "0\n\r\n", "0\r\r\n", "0 \r\n\r\n", "-0\r\n\r\n", "+0\r\n\r\n", "0;\n\r\n",
		"0\r\n", "0\r\nno field\r\n\r\n", "0\r\n: empty\r\n\r\n", "0\r\nX : y\r\n\r\n", "0\r\n X: y\r\n\r\n", "0\r\nX: y\r\n folded\r\n\r\n", "0\r\nX: y\x00\r\n\r\n", "0\r\nX: y\nZ: z\r\n\r\n", "0\r\nX: y\rZ: z\r\n\r\n",
		"0\r\nContent-Length: 5\r\n\r\n", "0\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\nHost: other.test\r\n\r\n", "0\r\nTrailer: X\r\n\r\n", "3;" + strings.Repeat("e", 20000) + "\r\nabc\r\n0\r\n\r\n",
	} {
		broken(body)
	}
	return all
}

// obscureLines are heads whose lines end in another way, or contain what does not belong there.
func obscureLines() (all []desync) {
	add := func(text string) {
		all = append(all, desync{name: fmt.Sprintf("lines %.70q", text), text: text})
	}
	for _, field := range []string{
		"X: a\nX-B: b", "X: a\rX-B: b", "X: a\r\r\nX-B: b", "X: a\x00b", "X\x00: a", "X : a", "X\t: a", " X: a", "\tX: a", "X: a\r\n b", "X: a\r\n\tb", "X: a\r\n \r\nX-B: b", "X:\r\n a", ": a", "X", "X a", "X=a", "X Y: a", "X_Y: a", "X.Y: a",
		"X(Y): a", "X/Y: a", "X@Y: a", "X[Y]: a", "\"X\": a", "X\xe9: a", "X: \xe9", "X: \x01", "X: \x0b", "X: \x0c", "X: \x7f", "X: \x1b[0m", "X:", "X:a", "X: a: b", "X: a\n", "X: a\r", "X:\n", "\xef\xbb\xbfX: a", "X;Y: a", "X\r: a", "X\n: a",
		"X: " + smuggled, "X: a\r\n\r\n" + smuggled + "X: b", "X: a\n\n" + smuggled + "X: b", "X: a\r\r" + smuggled + "X: b", "X: a\n\r\n" + smuggled + "X: b", "X: a\r\n\n" + smuggled + "X: b", "X: a\r\n\r" + smuggled + "X: b",
		"Proxy: x", "X-Forwarded-For: 192.0.2.1", "X_Forwarded_For: 192.0.2.1", "Cookie: a\x00b", "Cookie: a\nCookie: b",
	} {
		add(asked(plainGet, "Host: site.test", field))
		add(asked(plainGet, field, "Host: site.test"))
	}
	unix := strings.ReplaceAll(asked(plainGet, "Host: site.test", "X: a"), "\r\n", "\n")
	add(unix)
	add(strings.ReplaceAll(unix, "\n", "\r"))
	add(strings.ReplaceAll(unix, "\n", "\n\r"))
	for _, before := range []string{"\r\n", "\n", "\r", "\r\n\r\n", "\n\n", "\n\n\n\n\n", " ", "\t", "\x00", "\r\n ", "X: a\r\n", "\r\n\r\n\r\n\r\n"} {
		add(before + asked(plainGet, "Host: site.test"))
		add(post("abc", "Content-Length: 3") + before + asked(plainGet, "Host: site.test")) // where some servers pass over empty lines
	}
	return all
}

func obscureFirstLines() (all []desync) {
	for _, line := range []string{
		"GET /x000000/a", "GET /x000000/a ", "GET /x000000/a HTTP/1.0", "GET /x000000/a HTTP/0.9", "GET /x000000/a HTTP/1.2", "GET /x000000/a HTTP/1.10", "GET /x000000/a HTTP/2.0", "GET /x000000/a HTTP/2", "GET /x000000/a HTTP/3.0", "GET /x000000/a http/1.1",
		"GET /x000000/a HTTP/1.1 ", "GET /x000000/a HTTP/01.1", "GET /x000000/a HTTP/1.01", "GET /x000000/a HTTP /1.1", "GET /x000000/a HTTP/1,1", "GET /x000000/a HTTP/+1.1", "GET /x000000/a HTTPS/1.1", "GET /x000000/a HTTP/1.1\t", "GET /x000000/a HTTP/1.1x",
		"GET  /x000000/a HTTP/1.1", "GET /x000000/a  HTTP/1.1", "GET\t/x000000/a\tHTTP/1.1", " GET /x000000/a HTTP/1.1", "GET\x0b/x000000/a HTTP/1.1", "GET\x0c/x000000/a HTTP/1.1", "GET /x000000/a\x00 HTTP/1.1", "GET\x00 /x000000/a HTTP/1.1", "GET /x000000/a\rHTTP/1.1",
		"GET /x000000/a b HTTP/1.1", "GET /x000000/a HTTP/1.1 /b HTTP/1.1", "GET /x000000/a HTTP/1.1\rX: y", "GET /x000000/a\nHost: other.test HTTP/1.1", "GET /x000000/a?GET /x000000/b HTTP/1.1",
		"get /x000000/a HTTP/1.1", "Get /x000000/a HTTP/1.1", "G\u00c9T /x000000/a HTTP/1.1", "GET( /x000000/a HTTP/1.1", "X-METHOD!# /x000000/a HTTP/1.1", "GET: /x000000/a HTTP/1.1", "TRACE /x000000/a HTTP/1.1", "TRACK /x000000/a HTTP/1.1", "OPTIONS /x000000/a HTTP/1.1",
		"OPTIONS * HTTP/1.1", "CONNECT /x000000/a HTTP/1.1", "CONNECT site.test:80 HTTP/1.1", "GET x000000/a HTTP/1.1", "GET ?x000000/a HTTP/1.1", "GET site.test:80 HTTP/1.1", "GET \\x000000\\a HTTP/1.1", "GET /x000000/a\\..\\b HTTP/1.1",
		"GET http://site.test/x000000/a HTTP/1.1", "GET http://other.test/x000000/a HTTP/1.1", "GET http://user@site.test/x000000/a HTTP/1.1", "GET http://user:pass@other.test/x000000/a HTTP/1.1", "GET HTTP://SITE.TEST/x000000/a HTTP/1.1", "GET http:///x000000/a HTTP/1.1",
		"GET http:/x000000/a HTTP/1.1", "GET http:x000000/a HTTP/1.1", "GET https://site.test/x000000/a HTTP/1.1", "GET ftp://site.test/x000000/a HTTP/1.1", "GET http://site.test?x000000/a HTTP/1.1", "GET http://site.test#/x000000/a HTTP/1.1", "GET http://site.test:80:80/x000000/a HTTP/1.1",
		"GET //other.test/x000000/a HTTP/1.1", "GET ///x000000/a HTTP/1.1", "GET /x000000/a#b HTTP/1.1", "GET /x000000/./a HTTP/1.1", "GET /x000000/b/../a HTTP/1.1", "GET /../x000000/a HTTP/1.1", "GET /x000000/%2e%2e/a HTTP/1.1", "GET /x000000/a%2fb HTTP/1.1",
		"GET /x000000/a%00 HTTP/1.1", "GET /x000000/a%0d%0aX:%20y HTTP/1.1", "GET /x000000/a% HTTP/1.1", "GET /x000000/a%zz HTTP/1.1", "GET /x000000/a?%zz HTTP/1.1", "GET /x000000/a;b HTTP/1.1", "GET /x000000/a\xff HTTP/1.1", "GET /x000000/a\x7f HTTP/1.1", "GET /x000000/a\x01 HTTP/1.1",
		"GET /x000000/a\"<>^`{|} HTTP/1.1", "GET /x000000/a?b c HTTP/1.1", "PRI * HTTP/2.0",
	} {
		all = append(all, desync{name: fmt.Sprintf("first line %q", line), text: asked(line, "Host: site.test")})
	}
	for _, body := range []string{"", "abcde"} {
		for _, version := range []string{"HTTP/1.0", "HTTP/1.1"} {
			for _, keep := range []string{"X: y", "Connection: keep-alive", "Connection: close", "Connection: close, keep-alive", "Connection: keep-alive, close", "Connection: keep-alive\r\nConnection: close", "Connection: CLOSE", "Connection:", "Connection: closed"} {
				all = append(all, desync{name: fmt.Sprintf("%s, %q, %q", version, keep, body), text: asked("POST /x000000/a "+version, "Host: site.test", keep, lengthOf(body)) + body})
			}
		}
	}
	return append(all,
		// They are answered while the server waits for more.
		desync{name: "preface of HTTP/2", text: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", early: true},
		desync{name: "preface of HTTP/2 with fields", text: "PRI * HTTP/2.0\r\nHost: site.test\r\n\r\nSM\r\n\r\n", early: true},
		desync{name: "most of the preface of HTTP/2", text: "PRI * HTTP/2.0\r\n\r\n", early: true},
		desync{name: "a line without an end", text: "GET /x000000/a"},
		desync{name: "an answer", text: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
		desync{name: "TLS", text: "\x16\x03\x01\x00\x05hello\r\n\r\n"},
	)
}
