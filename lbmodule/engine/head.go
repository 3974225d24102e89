package engine

import (
	"cmp"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Reason says why a client refuses a request. The empty Reason means that it takes the request.
type Reason string

// The reasons of [Client.Refuses].
const (
	ReasonPlatform Reason = "platform" // this platform cannot check an idle connection
	ReasonMethod   Reason = "method"   // invalid
	ReasonConnect  Reason = "connect"
	ReasonUpgrade  Reason = "upgrade"
	ReasonURL      Reason = "url"    // invalid, or with parts that need escaping
	ReasonHost     Reason = "host"   // invalid, or with parts that need escaping
	ReasonHeader   Reason = "header" // invalid, or with a field that asks for more than an answer
	ReasonBody     Reason = "body"   // its length contradicts itself, or its coding or trailer is not for the client
	ReasonClose    Reason = "close"  // the request asks to close the connection afterwards
	ReasonTrace    Reason = "trace"  // it asks for events that the client does not report
)

// Takes reports whether the client can make this request.
func (c *Client) Takes(r *http.Request) bool { return c.Refuses(r) == "" }

// Refuses returns the reason why the client cannot make this request; "" if it can. Refused requests, including invalid ones, are for
// net/http's transport.
func (c *Client) Refuses(r *http.Request) Reason {
	u := r.URL
	switch {
	case r.Method == http.MethodConnect:
		return ReasonConnect
	case !httpguts.ValidHeaderFieldName(r.Method): // a token, like a method
		return ReasonMethod
	case !canCheckIdle:
		return ReasonPlatform
	case !c.speaks(u) || u.Host == "" || u.Opaque != "" || u.User != nil || !isPlainQuery(u.RawQuery):
		return ReasonURL
	case r.Close:
		return ReasonClose
	case !isPlainBody(r):
		return ReasonBody
	case !isPlainHost(r.Host):
		return ReasonHost
	case r.Header["Upgrade"] != nil:
		return ReasonUpgrade
	case !isPlainHeader(r.Header):
		return ReasonHeader
	case httptrace.ContextClientTrace(r.Context()) != nil:
		return ReasonTrace
	}
	return ""
}

// isPlainBody reports whether the length of a request's body is announced in a valid way, and its trailer is valid.
func isPlainBody(r *http.Request) bool {
	if r.Body == nil || r.Body == http.NoBody {
		return r.ContentLength == 0 && (r.Body == nil || len(r.TransferEncoding) == 0)
	}
	if coding := r.TransferEncoding; len(coding) > 1 || len(coding) == 1 && coding[0] != "chunked" {
		return false
	}
	for name, values := range r.Trailer {
		switch http.CanonicalHeaderKey(name) {
		case "Transfer-Encoding", "Trailer", "Content-Length":
			return false
		}
		if !isValidField(name, values) {
			return false
		}
	}
	return true
}

// bodyLength returns the length of a request's body; a negative one if it is sent in chunks.
func bodyLength(r *http.Request) int64 {
	switch {
	case r.Body == nil || r.Body == http.NoBody:
		return 0
	case r.ContentLength == 0 || len(r.TransferEncoding) > 0:
		return -1
	}
	return r.ContentLength
}

// usuallyLacksBody reports whether requests with this method seldom have a body. As in net/http's transport, they get one in chunks only
// if there is something in it, because it confuses many servers.
func usuallyLacksBody(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodDelete, "PROPFIND", "SEARCH":
		return true
	}
	return false
}

// isRepeatable reports whether a request may be repeated if it is unknown whether the backend acted on it. The rule is that of net/http's
// transport: PUT and DELETE are excluded, and so are requests whose body cannot be read again.
func isRepeatable(r *http.Request) bool {
	if r.Body != nil && r.Body != http.NoBody && r.GetBody == nil {
		return false
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return r.Header["Idempotency-Key"] != nil || r.Header["X-Idempotency-Key"] != nil
}

// isPlainHost reports whether a host can be sent unchanged.
func isPlainHost(host string) bool {
	for i := range len(host) {
		switch b := host[i]; {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', b == '.', b == '-', b == ':', b == '_', b == '[', b == ']':
		default:
			return false
		}
	}
	return host != ""
}

// isPlainQuery reports whether a query can be sent unchanged. Paths are always escaped.
func isPlainQuery(query string) bool {
	for i := range len(query) {
		if query[i] <= ' ' || query[i] == 0x7f {
			return false
		}
	}
	return true
}

// isPlainHeader reports whether a header is valid, and has no field that affects the connection.
func isPlainHeader(h http.Header) bool {
	if _, named := h["User-Agent"]; !named {
		return false // net/http's transport sends its own
	}
	for name, values := range h {
		switch name {
		case "Connection", "Upgrade":
			return false
		}
		if !isValidField(name, values) {
			return false
		}
	}
	return true
}

func isValidField(name string, values []string) bool {
	if !httpguts.ValidHeaderFieldName(name) {
		return false
	}
	for _, v := range values {
		if !httpguts.ValidHeaderFieldValue(v) {
			return false
		}
	}
	return true
}

// first returns the first value of the field of that canonical name. Unlike [http.Header.Get], it does not check the name.
func first(h http.Header, name string) string {
	if values := h[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// Head composes a request's head.
type Head interface {
	// AppendHead appends the head, and the body unless that is the body of the [Call]'s request. The head must be valid and must not ask
	// for more than an answer, which the client does not check. askGzip says to ask for gzip.
	AppendHead(b []byte, askGzip bool) []byte
	// MayAskGzip reports whether the client may ask for gzip: neither the method nor a field of the head rules it out.
	MayAskGzip() bool
}

// appendHead appends the head of the request, which has a body of this length; a negative one means chunks.
func (k *Call) appendHead(b []byte, length int64, askGzip bool) []byte {
	if k.Head != nil {
		return k.Head.AppendHead(b, askGzip)
	}
	return appendHead(b, k.Request, length, askGzip)
}

// asksGzip reports whether the client asks for gzip itself, as net/http's transport does, and so must decompress the answer.
func (c *Client) asksGzip(k *Call) bool {
	if k.Head != nil {
		return !c.DisableCompression && k.Head.MayAskGzip()
	}
	r := k.Request
	return !c.DisableCompression && r.Method != http.MethodHead && first(r.Header, "Accept-Encoding") == "" && first(r.Header, "Range") == ""
}

// appendHead appends the header of a request with a body of this length; a negative one means chunks.
func appendHead(b []byte, r *http.Request, length int64, asksGzip bool) []byte {
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, cmp.Or(r.URL.EscapedPath(), "/")...)
	if r.URL.ForceQuery || r.URL.RawQuery != "" {
		b = append(append(b, '?'), r.URL.RawQuery...)
	}
	b = append(b, " HTTP/1.1\r\n"...)
	b = appendField(b, "Host", r.Host)
	switch {
	case length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		if len(r.Trailer) > 0 {
			b = appendTrailerNames(b, r.Trailer)
		}
	case length > 0 || r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, length, 10)
		b = append(b, "\r\n"...)
	}
	if agent := first(r.Header, "User-Agent"); agent != "" { // an empty one suppresses the default
		b = appendField(b, "User-Agent", agent)
	}
	for name, values := range r.Header {
		switch name {
		case "Host", "User-Agent", "Content-Length", "Transfer-Encoding", "Trailer":
			continue // written above
		}
		for _, v := range values {
			b = appendField(b, name, v)
		}
	}
	if asksGzip {
		b = appendField(b, "Accept-Encoding", "gzip")
	}
	return append(b, "\r\n"...)
}

// appendTrailerNames appends the field that announces trailers.
func appendTrailerNames(b []byte, trailer http.Header) []byte {
	names := make([]string, 0, len(trailer))
	for name := range trailer {
		names = append(names, http.CanonicalHeaderKey(name))
	}
	slices.Sort(names)
	return appendField(b, "Trailer", strings.Join(names, ","))
}

func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, strings.Trim(value, " \t")...)
	return append(b, "\r\n"...)
}
