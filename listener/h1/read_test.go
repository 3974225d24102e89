package h1_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"

	"github.com/ballastlb/ballast/listener/h1"
)

const most = 16 << 10

// read reads raw in one piece, checks all that holds for any head, and returns what came out.
func read(t *testing.T, raw string) (h1.Reason, *h1.Head) {
	t.Helper()
	text := []byte(raw)
	h := new(h1.Head)
	reason := h.Read(text, most)
	for i, c := range text {
		if raw[i] != c && (raw[i]^c != 0x20 || c|0x20 < 'a' || c|0x20 > 'z') {
			t.Fatalf("%q became %q", raw, text)
		}
	}
	if reason == h1.Plain {
		checkPlain(t, raw, h)
		checkPlain(t, string(text), h)
	}
	checkPrefixes(t, raw, reason, len(h.Raw))
	checkPieces(t, raw, reason, h)
	return reason, h
}

// checkPrefixes: no part of a head has another reason than the whole, and none is plain.
func checkPrefixes(t *testing.T, raw string, reason h1.Reason, length int) {
	t.Helper()
	h := new(h1.Head)
	for n := 0; n <= len(raw); n += 1 + len(raw)/1000 {
		h.Reset()
		want := reason
		if reason == h1.Plain && n < length {
			want = h1.Incomplete
		}
		if got := h.Read([]byte(raw[:n]), most); got != want && (got != h1.Incomplete || reason == h1.Plain) {
			t.Errorf("%q: reason %q, want %q as of %q", raw[:n], got, want, raw)
			return
		}
	}
}

// checkPieces: a head that comes in pieces, and moves in memory, is the same as the whole one.
func checkPieces(t *testing.T, raw string, reason h1.Reason, whole *h1.Head) {
	t.Helper()
	for _, step := range []int{1, 2, 7, 64} {
		var h h1.Head
		var text []byte
		got := h1.Incomplete
		for n := 0; n < len(raw) && got == h1.Incomplete; {
			next := min(n+step, len(raw))
			text = append(bytes.Clone(text), raw[n:next]...)
			got, n = h.Read(text, most), next
		}
		if got != reason {
			t.Errorf("%q in pieces of %d: reason %q, want %q", raw, step, got, reason)
		}
		if got == h1.Plain && !reflect.DeepEqual(parts(&h), parts(whole)) {
			t.Errorf("%q in pieces of %d: %+v, want %+v", raw, step, parts(&h), parts(whole))
		}
	}
}

func parts(h *h1.Head) []any {
	return []any{string(h.Raw), h.Method, h.Target, h.Path, h.Query, h.Asked, h.Host, h.Fields, h.Plain, h.Length, h.HasBody, h.Close, h.Kept}
}

// checkPlain: net/http reads the same from raw as h says, its server and Caddy's would not refuse it, drop or add anything, or answer
// themselves.
func checkPlain(t *testing.T, raw string, h *h1.Head) {
	t.Helper()
	from := bufio.NewReaderSize(strings.NewReader(raw), 2*most)
	r, err := http.ReadRequest(from)
	if err != nil {
		t.Errorf("%q: %v", raw, err)
		return
	}
	text := h.Raw
	of := func(s h1.Span) string { return string(s.Of(text)) }
	equal := func(name string, got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %s is %#v, want %#v", raw, name, got, want)
		}
	}
	rest, _ := io.ReadAll(from)
	equal("rest", raw[len(text):], string(rest))
	equal("method", h.Method, r.Method)
	equal("version", "HTTP/1.1", r.Proto)
	equal("target", of(h.Target), r.RequestURI)
	equal("host", of(h.Host), r.Host)
	equal("length", h.Length, r.ContentLength)
	equal("close", h.Close, r.Close)
	equal("encodings", r.TransferEncoding, []string(nil))
	equal("trailer", r.Trailer, http.Header(nil))

	part, target := of(h.Path), of(h.Path)
	if h.Asked {
		target += "?" + of(h.Query)
	}
	equal("parts of the target", target, of(h.Target))
	equal("path", part, r.URL.EscapedPath())
	equal("query", of(h.Query), r.URL.RawQuery)
	equal("URL's target", r.URL.RequestURI(), of(h.Target))
	clean := path.Clean(r.URL.Path)
	if clean != "/" && strings.HasSuffix(part, "/") {
		clean += "/"
	}
	equal("Plain", h.Plain, clean == part && r.URL.Path == part && !strings.Contains(part+"/", "./") && !strings.Contains(part, "%"))

	header, end := http.Header{}, len("  HTTP/1.1\r\n")+len(h.Method)+len(of(h.Target))
	for _, f := range h.Fields {
		equal("begin of a line", f.Name.Start, end)
		name := of(f.Name)
		header[name] = append(header[name], of(f.Value))
		end = f.Value.End + strings.Index(string(text[f.Value.End:]), "\r\n") + 2
	}
	equal("end of the fields", end+2, len(text))
	equal("hosts", header["Host"], []string{r.Host})
	delete(header, "Host")
	equal("header", header, r.Header)
	equal("HasBody", h.HasBody, header["Content-Length"] != nil)
	equal("Close and Kept", h.Close || h.Kept, header["Connection"] != nil)

	if !httpguts.ValidHostHeader(r.Host) {
		t.Errorf("%q: net/http refuses the host", raw)
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	if strings.Trim(host, ".") == "" {
		t.Errorf("%q: Caddy refuses the host", raw)
	}
	for name, values := range r.Header {
		if strings.ContainsAny(name, "_.") || !httpguts.ValidHeaderFieldName(name) {
			t.Errorf("%q: Caddy drops %s", raw, name)
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				t.Errorf("%q: net/http refuses the value of %s", raw, name)
			}
		}
	}
	if strings.HasPrefix(r.URL.Path, "/.well-known/acme-challenge") || strings.HasPrefix(r.URL.Path, "/.well-known/pki-validation/") {
		t.Errorf("%q: Caddy may answer itself", raw)
	}
}

const rest = "Host: example.com\r\n\r\n"

func TestPlain(t *testing.T) {
	for _, raw := range plain {
		if reason, _ := read(t, raw); reason != h1.Plain {
			t.Errorf("%q: %s", raw, reason)
		}
	}
}

var plain = []string{
	"GET / HTTP/1.1\r\n" + rest,
	"HEAD /a/b?c=d&e HTTP/1.1\r\nhOsT:example.com:8080\r\nACCEPT:\t */* \t\r\n\r\n",
	"POST /? HTTP/1.1\r\nContent-Length: 5\r\n" + rest + "helloGET / HTTP/1.1\r\n",
	"PUT /a?? HTTP/1.1\r\nContent-Length: 0\r\nConnection: Keep-Alive\r\n" + rest,
	"DELETE /a%2Fb/%7e;v=1/@:,+*'()!$&=[] HTTP/1.1\r\nConnection: CLOSE\r\n" + rest,
	"PATCH /.well-known/security.txt HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n",
	"OPTIONS /./a/../b HTTP/1.1\r\nHost: [::ffff:10.0.0.1]\r\n\r\n",
	"GET /%0ewell-known/acme-challenge/x HTTP/1.1\r\n" + rest,
	"GET /a//b/. HTTP/1.1\r\nHost: a_b.example.\r\n\r\n",
	"GET /%2e/a. HTTP/1.1\r\nX-Empty:\r\nX-Blank: \t \r\nX-Obs: \xc3\xa9\xff\tb\r\nX-Colon: a:b\r\n" + rest,
	"GET /?a[]=<\">|{}\\^`%zz HTTP/1.1\r\nPragma: no-cache\r\nCache-Control: max-age=0\r\n" + rest,
	"GET / HTTP/1.1\r\nContent-Length: 0\r\nX-Forwarded-For: 1.2.3.4\r\nContent-Type: application/grp\r\n" + rest,
	"POST / HTTP/1.1\r\nContent-Length: 999999999999999999\r\n!#$%&'*+-^`|~: odd\r\n" + rest,
	"GET / HTTP/1.1\r\n" + strings.Repeat("Cookie: a\r\n", h1.MaxFields-1) + rest,
	"GET / HTTP/1.1\r\n" + strings.Repeat("n", 128) + ": v\r\n" + rest,
}

func TestReasons(t *testing.T) {
	fields := func(lines string) string { return "POST / HTTP/1.1\r\n" + lines + "\r\n" + rest }
	target := func(target string) string { return "GET " + target + " HTTP/1.1\r\n" + rest }
	host := func(host string) string { return "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }
	for reason, list := range map[h1.Reason][]string{
		h1.EmptyLine:          {"\r\n" + target("/"), "\n" + target("/"), "\r"},
		h1.Method:             {"CONNECT a:443 HTTP/1.1\r\n", "TRACE /", "get /", "GETS /", "GET\t/", "GE T", " GET /", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01"},
		h1.Target:             {target("*"), target("http://example.com/"), target("//a/b"), target("a"), target(""), target("/a#b"), target("/a?b#c"), target("/\xc3\xa9"), target("/?\xc3"), target("/a%2"), target("/%zz"), target("/%g0"), target("/%0G"), target("/a\tb"), target("/a?\x00"), target("/\x7f"), target("/{a}"), target("/a|b"), target(`/a\b`), "GET  / HTTP/1.1\r\n"},
		h1.ACME:               {target("/.well-known/acme-challenge/x"), target("/.well-known/acme-challenge"), target("/%2ewell%2Dknown/acme-challenge/x?y"), target("/.well-known/pki-validation/x")},
		h1.Version:            {"GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1 \r\n", "GET / http/1.1\r\n", "GET / HTTP/1.10\r\n", "GET / HTTP/2.0\r\n", "GET /\r\n", "GET /\n", "GET /a?b\r\n", "GET /  HTTP/1.1\r\n", "GET / HTTP/1.1\rX", "GET / \r\n", "GET / a"},
		h1.BareLF:             {"GET / HTTP/1.1\nHost: a\n\n", "POST / HTTP/1.1\r\nHost: a\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\n"},
		h1.BareCR:             {fields("A: b\rc"), fields("A: b\r\r\n"), "GET / HTTP/1.1\r\nHost: a\r\n\r\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\rGET"},
		h1.Folded:             {fields("A: b\r\n c"), fields("A: b\r\n\tc"), fields(" A: b"), fields("A:\r\n "), fields("A: b\r\n ")},
		h1.FieldName:          {fields("A : b"), fields("A\t: b"), fields(": b"), fields("A"), fields("A b: c"), fields("A_b: c"), fields("A.b: c"), fields("\xc3\xa9: c"), fields("A\x00: c"), fields("A(b): c"), fields(strings.Repeat("n", 129) + ": v"), fields("\x0bTransfer-Encoding: chunked")},
		h1.FieldValue:         {fields("A: \x00"), fields("A: b\x7f"), fields("A: 12345678\x0b"), fields("A: \x0c chunked"), "GET / HTTP/1.1\r\nA: \x1f"},
		h1.TooManyFields:      {"GET / HTTP/1.1\r\n" + strings.Repeat("Cookie: a\r\n", h1.MaxFields) + rest},
		h1.TooLong:            {target("/" + strings.Repeat("a", most)), fields("A: " + strings.Repeat("b", most)), target("/?" + strings.Repeat("a", most))},
		h1.Host:               {"GET / HTTP/1.1\r\nA: b\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", fields("Host: a"), fields("Host: example.com"), host(""), host(" "), host("."), host("...:80"), host(":80"), host("a:"), host("a:b"), host("a:123456"), host("a:1:2"), host("u@a"), host("a,b"), host("a b"), host("a/b"), host("a%41"), host("[...]:80"), host("[::1"), host("[::1]x"), host("[fe80::1%25eth0]"), host("::1"), host("\xc3\xa9"), host("<a>")},
		h1.ContentLength:      {fields("Content-Length: 5\r\nContent-Length: 5"), fields("Content-Length: 5\r\ncontent-length: 6"), fields("Content-Length: +5"), fields("Content-Length: -5"), fields("Content-Length: 5, 5"), fields("Content-Length: 0x5"), fields("Content-Length: 05"), fields("Content-Length:"), fields("Content-Length: 5 5"), fields("Content-Length: 1e1"), fields("Content-Length: 1_0"), fields("Content-Length: 1000000000000000000"), fields("Content-Length: \xd9\xa5")},
		h1.Body:               {"GET / HTTP/1.1\r\nContent-Length: 5\r\n" + rest, "HEAD / HTTP/1.1\r\nContent-Length: 1\r\n" + rest},
		h1.TransferEncoding:   {fields("Transfer-Encoding: chunked"), fields("transfer-encoding:identity"), fields("TRANSFER-ENCODING: x"), fields("Transfer-Encoding:")},
		h1.Connection:         {fields("Connection: close, keep-alive"), fields("Connection: x"), fields("Connection:"), fields("Connection: close\r\nConnection: close"), fields("Connection: keep-alive\r\nConnection: close"), fields("Connection: keep-alive, Upgrade"), fields("Connection: Content-Length"), fields("Connection: \"close\""), fields("Close: yes")},
		h1.Upgrade:            {fields("Upgrade: websocket\r\nConnection: Upgrade"), fields("Connection: upgrade\r\nUpgrade: h2c"), fields("HTTP2-Settings: AAMAAABk")},
		h1.Expect:             {fields("Expect: 100-continue"), fields("expect: x")},
		h1.TE:                 {fields("TE: trailers"), fields("te: gzip")},
		h1.Trailer:            {fields("Trailer: A")},
		h1.HopByHop:           {fields("Keep-Alive: timeout=5"), fields("Proxy-Connection: keep-alive"), fields("Alt-Svc: clear")},
		h1.ProxyAuthorization: {fields("Proxy-Authorization: Basic x"), fields("Proxy-Authenticate: Basic")},
		h1.Incremental:        {fields("Incremental: ?1")},
		h1.GRPC:               {fields("Content-Type: application/grpc"), fields("content-type: Application/gRPC-web+proto")},
		h1.Pragma:             {fields("Pragma: no-cache")},
		h1.Incomplete:         {"", "G", "GET", "GET ", "GET /", "GET /%", "GET /%2", "GET /?", "GET / ", "GET / HTTP/1.1\r", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHo", "GET / HTTP/1.1\r\nHost:", "GET / HTTP/1.1\r\nHost: a\r", "GET / HTTP/1.1\r\nHost: a\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r"},
	} {
		for _, raw := range list {
			if got, _ := read(t, raw); got != reason {
				t.Errorf("%.200q: reason %q, want %q", raw, got, reason)
			}
		}
	}
}

// TestTargetBytes: a byte in the path or in the query is plain only where net/http gives the target back as it was.
func TestTargetBytes(t *testing.T) {
	for c := range 256 {
		for _, form := range []string{"/a%sb", "/%s", "/a?b%sc", "/?%s"} {
			target := fmt.Sprintf(form, string([]byte{byte(c)}))
			raw := "GET " + target + " HTTP/1.1\r\n" + rest
			reason, _ := read(t, raw)
			r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
			kept := err == nil && r.URL.RequestURI() == target && target != "//"
			_, query, asked := strings.Cut(target, "?")
			kept = kept && c < 0x80 && !strings.Contains(query, "#") && (asked || r.URL.EscapedPath() == target)
			if kept != (reason == h1.Plain) {
				t.Errorf("%q: reason %q", target, reason)
			}
		}
	}
}

// TestReadOn: what was read of a long line is not read again.
func TestReadOn(t *testing.T) {
	for _, part := range []string{"GET /aaaa", "GET /?aaaa", "GET / HTTP/1.1\r\nA: aaaa"} {
		var h h1.Head
		raw := []byte(part)
		if reason := h.Read(raw, most); reason != h1.Incomplete {
			t.Fatalf("%q: reason %q", part, reason)
		}
		raw[len(raw)-2] = 0
		if !strings.Contains(part, "\r\n") {
			raw = append(raw, " HTTP/1.1"...)
		}
		raw = append(raw, "\r\n"+rest...)
		if reason := h.Read(raw, most); reason != h1.Plain {
			t.Errorf("%q: reason %q", raw, reason)
		}
	}
}

// TestReset: what an earlier head had is not in a later one.
func TestReset(t *testing.T) {
	var h h1.Head
	for _, raw := range append(plain, "POST / HTTP/1.1\r\nPragma: no-cache\r\nCache-Control: x\r\nHost: a\r\nTE: x") {
		h.Reset()
		h.Read([]byte(raw), most)
		h.Reset()
		h.Read([]byte("GET / HTTP/1.1\r\nHos"), most)
		for _, again := range plain {
			h.Reset()
			if reason := h.Read([]byte(again), most); reason != h1.Plain {
				t.Fatalf("%q after %q: %s", again, raw, reason)
			}
			fresh := new(h1.Head)
			fresh.Read([]byte(again), most)
			if !reflect.DeepEqual(parts(&h), parts(fresh)) {
				t.Fatalf("%q after %q: %+v", again, raw, parts(&h))
			}
		}
		h.Reset()
		if reason := h.Read([]byte("GET / HTTP/1.1\r\n\r\n"), most); reason != h1.Host {
			t.Fatalf("no host after %q: %q", raw, reason)
		}
	}
}

// TestMost: a head of just as many bytes as are allowed is plain, with or without something behind it; one of a byte more is not, and is
// known not to be before that byte is there.
func TestMost(t *testing.T) {
	raw := "GET / HTTP/1.1\r\n" + rest
	for behind, extra := range []string{"", "GET /"} {
		for size, want := range map[int]h1.Reason{len(raw): h1.Plain, len(raw) - 1: h1.TooLong} {
			var h h1.Head
			if reason := h.Read([]byte(raw+extra), size); reason != want {
				t.Errorf("%d behind: reason %q with %d bytes allowed, want %q", behind, reason, size, want)
			}
		}
	}
	var h h1.Head
	if reason := h.Read([]byte(raw[:len(raw)-1]), len(raw)-1); reason != h1.TooLong {
		t.Errorf("reason %q", reason)
	}
}
