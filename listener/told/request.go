package told

import (
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/listener/h1"
)

// Client is the peer of a connection, as requests show it.
type Client struct {
	Remote string               // the address, as in [http.Request.RemoteAddr]
	TLS    *tls.ConnectionState // nil without TLS

	ctx context.Context // with the values that net/http's server puts into a request's context
}

// NewClient describes the peer of a connection of server. The handshake must be complete. ctx is the context of the client's requests.
func NewClient(ctx context.Context, server *http.Server, c net.Conn) *Client {
	ctx = context.WithValue(ctx, http.ServerContextKey, server)
	ctx = context.WithValue(ctx, http.LocalAddrContextKey, c.LocalAddr())
	client := &Client{ctx: ctx}
	if address := c.RemoteAddr(); address != nil {
		client.Remote = address.String()
	}
	if encrypted, ok := c.(interface{ ConnectionState() tls.ConnectionState }); ok {
		state := encrypted.ConnectionState()
		client.TLS = &state
	}
	return client
}

// Request returns the request of a head as the handlers of a Caddy server would get it, except that its body is always [http.NoBody]. It
// does not refer to the head's bytes. begun is when the request began. w is for placeholders of the answer; it may be nil.
func (c *Client) Request(h *h1.Head, server *caddyhttp.Server, begun time.Time, w http.ResponseWriter) (*http.Request, error) {
	raw := string(h.Raw)
	target := raw[h.Target.Start:h.Target.End]
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return nil, err
	}
	r := &http.Request{
		Method:        h.Method,
		URL:           u,
		Proto:         proto,
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        header(h, raw),
		Body:          http.NoBody,
		ContentLength: h.Length,
		Close:         h.Close,
		Host:          raw[h.Host.Start:h.Host.End],
		RemoteAddr:    c.Remote,
		RequestURI:    target,
		TLS:           c.TLS,
	}
	r = caddyhttp.PrepareRequest(r.WithContext(c.ctx), caddy.NewReplacer(), w, server)
	caddyhttp.SetVar(r.Context(), "start_time", begun) // PrepareRequest takes the current time
	return r, nil
}

const proto = "HTTP/1.1"

// Header returns the fields of h as the handlers of a Caddy server would get them. It does not refer to the head's bytes.
func Header(h *h1.Head) http.Header { return header(h, string(h.Raw)) }

// header returns the fields of h as net/http's server shows them. raw are the head's bytes.
func header(h *h1.Head, raw string) http.Header {
	header := make(http.Header, len(h.Fields))
	values := make([]string, len(h.Fields))
	for i, f := range h.Fields {
		name, value := raw[f.Name.Start:f.Name.End], raw[f.Value.Start:f.Value.End]
		if name == hostName {
			continue
		}
		if before, ok := header[name]; ok {
			header[name] = append(before, value)
			continue
		}
		values[i] = value
		header[name] = values[i : i+1 : i+1]
	}
	if pragma, ok := header[pragmaName]; ok && asksForNoCache(pragma[0]) && header[cacheControlName] == nil {
		header[cacheControlName] = []string{noCache}
	}
	return header
}

// Fields that net/http's server treats specially. It shows the host elsewhere, and adds Cache-Control for the Pragma of an HTTP/1.0 client.
const (
	hostName         = "Host"
	pragmaName       = "Pragma"
	cacheControlName = "Cache-Control"
	noCache          = "no-cache"
)

func asksForNoCache(pragma string) bool { return pragma == noCache }

// few is the number of fields up to which comparing each name with all earlier ones is faster than a map.
const few = 32

// first reports whether no field before the i-th has its name.
func first(h *h1.Head, i int) bool {
	name := h.Fields[i].Name
	for _, f := range h.Fields[:i] {
		if f.Name.End-f.Name.Start == name.End-name.Start && bytes.Equal(f.Name.Of(h.Raw), name.Of(h.Raw)) {
			return false
		}
	}
	return true
}

// addsCacheControl reports whether net/http's server adds a Cache-Control that the client did not send.
func addsCacheControl(h *h1.Head) bool {
	adds := false
	for _, f := range h.Fields {
		switch name := f.Name.Of(h.Raw); {
		case string(name) == cacheControlName:
			return false
		case string(name) == pragmaName && !adds:
			// The first Pragma decides.
			if string(f.Value.Of(h.Raw)) != noCache {
				return false
			}
			adds = true
		}
	}
	return adds
}

// Size returns the size of a request as Caddy's metrics compute it.
func Size(h *h1.Head) int {
	size := targetSize(h) + len(h.Method) + len(proto) + h.Host.End - h.Host.Start + int(h.Length)
	if len(h.Fields) > few {
		for name, values := range header(h, string(h.Raw)) {
			size += len(name)
			for _, value := range values {
				size += len(value)
			}
		}
		return size
	}
	pragma := false
	for i, f := range h.Fields {
		name := f.Name.Of(h.Raw)
		if string(name) == hostName {
			continue
		}
		pragma = pragma || string(name) == pragmaName
		if first(h, i) {
			size += len(name)
		}
		size += f.Value.End - f.Value.Start
	}
	if pragma && addsCacheControl(h) {
		size += len(cacheControlName) + len(noCache)
	}
	return size
}

// targetSize returns the length of the target as net/url writes it.
func targetSize(h *h1.Head) int {
	for _, c := range h.Path.Of(h.Raw) {
		if !written[c] {
			u, err := url.ParseRequestURI(string(h.Target.Of(h.Raw)))
			if err != nil {
				return 0
			}
			return len(u.String())
		}
	}
	return h.Target.End - h.Target.Start
}

// written is the set of bytes of a path that net/url does not change.
var written = func() (set [256]bool) {
	for c := range set {
		path := "/" + string(rune(c))
		u, err := url.ParseRequestURI(path)
		set[c] = err == nil && c < 0x80 && c != '?' && u.String() == path
	}
	return set
}()
