package h1_test

import (
	"strings"
	"testing"

	"github.com/ballastlb/ballast/listener/h1"
)

// FuzzHead: [read] checks what holds for all heads.
func FuzzHead(f *testing.F) {
	for _, raw := range plain {
		f.Add(raw)
	}
	for _, raw := range desync {
		f.Add(raw)
	}
	for _, lines := range []string{
		"Content-Length: 5", "Transfer-Encoding: chunked", "Connection: close", "Connection: Upgrade\r\nUpgrade: websocket", "Expect: 100-continue",
		"TE: trailers", "Trailer: a", "Content-Type: application/grpc", "Pragma: no-cache", "Cache-Control: no-store", "Host: a", "Incremental: ?1",
		"Keep-Alive: 5", "Proxy-Authorization: b", "Close: a", "X-Forwarded-Host: b", "A_b: c",
	} {
		f.Add("POST /a/%2e?b HTTP/1.1\r\n" + lines + "\r\n" + rest)
		f.Add("GET /.well-known/x HTTP/1.1\r\n" + rest[:len(rest)-2] + lines + "\r\n\r\n")
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if len(raw) <= 2048 {
			read(t, raw)
		}
	})
}

// desync are requests of which two programs may see the end, or the target, elsewhere.
var desync = []string{
	// Two ways to say where the body ends.
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nGPOST / HTTP/1.1\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\nContent-Length: 7\r\n\r\n12345\r\na",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 6\r\n\r\nhello",
	"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 44\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
	// A length that is read in several ways.
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 010\r\n\r\n12345678",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 0\r\n\r\n1234567890",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5;\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\x00\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\x0b\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: a\r\n Content-Length: 5\r\n\r\nhello",
	"POST / HTTP/1.1\r\n Content-Length: 5\r\nHost: a\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: a\r\nContent\r\n-Length: 5\r\n\r\nhello",
	// Transfer codings that only some parsers recognize.
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: CHUNKED\r\n\r\n5;a=\"\nb\"\r\nhello\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0;ext\r\nA: b\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer.Encoding: chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\n\x00Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\n\xa0Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\x00: chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\n: x\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	// Ends of the head that only some parsers recognize.
	"GET / HTTP/1.1\nHost: a\n\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\n\n",
	"GET / HTTP/1.1\rHost: a\r\r",
	"GET / HTTP/1.1\r\nHost: a\r\n\rGET /admin HTTP/1.1\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\nX: \r\r\n\r\n",
	"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET / HTTP/1.1\r\n\r\nHost: a\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\n \r\nX: y\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
	// Versions and request lines that only some parsers accept.
	"GET /\r\n", "GET / HTTP/0.9\r\nHost: a\r\n\r\n", "GET / HTTP/1.0\r\nHost: a\r\n\r\n", "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
	"GET / HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\x00\r\nHost: a\r\n\r\n", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\t\r\nHost: a\r\n\r\n", "GET / HTTP/01.1\r\nHost: a\r\n\r\n", "GET / HTTP/1,1\r\nHost: a\r\n\r\n",
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01", "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
	// A host that is elsewhere, or two.
	"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET //b/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET b:80 HTTP/1.1\r\nHost: a\r\n\r\n",
	"CONNECT b:80 HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
	"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "GET / HTTP/1.1\r\n Host: b\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: c@a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a#b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\tb\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a:80:90\r\n\r\n", "GET / HTTP/1.1\r\nHost:\r\n\r\n", "GET / HTTP/1.1\r\n\r\n",
	// Fields that Connection names, and what else is for one connection alone.
	"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Real-IP\r\nX-Real-IP: 1.2.3.4\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Host\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nClose: x\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: y 100-continue\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers, chunked\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTrailer: Content-Length\r\nContent-Length: 0\r\n\r\n",
}

// TestDesync: none of them is plain, nor waited for when all of it is there.
func TestDesync(t *testing.T) {
	for _, raw := range desync {
		if reason, _ := read(t, raw); reason == h1.Plain || reason == h1.Incomplete {
			t.Errorf("%q: reason %q", raw, reason)
		}
	}
}

// TestHiddenField: no byte before, in or behind the name or the value of a field that must be seen hides it: the head is plain only where
// the name is really another one.
func TestHiddenField(t *testing.T) {
	for _, f := range []struct{ name, value string }{{"Transfer-Encoding", "chunked"}, {"Content-Length", "5, 5"}, {"Connection", "x, y"}, {"Expect", "100-continue"}} {
		for c := range 256 {
			b := string([]byte{byte(c)})
			for at := range len(f.name) + 1 {
				check := func(name string) {
					reason, _ := read(t, "POST / HTTP/1.1\r\n"+name+": "+f.value+"\r\n"+rest)
					if reason == h1.Plain && strings.EqualFold(name, f.name) {
						t.Errorf("%q: plain", name)
					}
				}
				check(f.name[:at] + b + f.name[at:])
				if at < len(f.name) {
					check(f.name[:at] + b + f.name[at+1:])
				}
			}
			for _, value := range []string{b + f.value, f.value + b, f.value[:2] + b + f.value[2:]} {
				if reason, _ := read(t, "POST / HTTP/1.1\r\n"+f.name+":"+value+"\r\n"+rest); reason == h1.Plain {
					t.Errorf("%s:%q: plain", f.name, value)
				}
			}
		}
	}
}
