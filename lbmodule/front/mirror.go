package front

import (
	"context"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/ballastlb/ballast/lbmodule/stock"
)

// mirroredField marks copies for mirrors, so that the other system can recognize them. It also keeps balancers that mirror to each other
// from copying copies.
const mirroredField = "X-Mirrored"

// Mirror is an upstream to which copies of requests are sent.
type Mirror struct {
	target *stock.Target
	ctx    context.Context // of all copies
	repl   *caddy.Replacer // has the upstream's placeholders
}

// NewMirror returns the mirror at that address. ctx is the context of all copies.
func (f *Front) NewMirror(ctx context.Context, address string) (*Mirror, error) {
	target, err := stock.NewMirror(address)
	if err != nil {
		return nil, err
	}
	m := &Mirror{target: target, repl: caddy.NewReplacer()}
	m.repl.Map(m.placeholder)
	m.ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, m.repl) // for tls_server_name
	return m, nil
}

// placeholder returns the value of an upstream placeholder for the mirror, if it is known before a request is sent there.
func (m *Mirror) placeholder(name string) (any, bool) {
	about, ours := strings.CutPrefix(name, placeholderPrefix+"upstream.")
	if !ours {
		return nil, false
	}
	dial := m.target.Dial()
	switch about {
	case "address":
		return dial.String(), true
	case "hostport":
		return dial.Address, true
	case "host":
		return dial.Host, true
	case "port":
		return dial.Port, true
	}
	return nil, false
}

// Copyable reports whether a copy of the request may be sent to another system: it must be idempotent and have no body. In HTTP/3 the
// length is unknown without a Content-Length, and the method decides; in other versions a request of unknown length has a body.
func (q *Request) Copyable() bool {
	return q.Idempotent() && !hasContent(&q.request) && (q.request.ContentLength == 0 || q.request.ProtoMajor == 3)
}

// ForMirror returns a copy of the request for a mirror, and the trip that carries it there. The copy shares nothing mutable with the
// request, and does not end with it.
func (q *Request) ForMirror(m *Mirror) (r *http.Request, trip *stock.Trip) {
	u := q.url
	r = (&http.Request{
		Method: q.request.Method, URL: &u, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: q.header.Clone(), Host: q.host,
	}).WithContext(m.ctx)
	if f := q.front; f.headers {
		// The placeholders of the operations may refer to any part of the client's request, so they are applied while that is still available.
		repl := caddy.NewEmptyReplacer()
		repl.Map(m.placeholder)
		repl.Map(q.repl.Get)
		as := r.WithContext(context.WithValue(m.ctx, caddy.ReplacerCtxKey, repl))
		for _, ops := range []*headers.HeaderOps{f.stock.TransportHeaders, f.stock.RequestHeaders} {
			if ops != nil {
				ops.ApplyToRequest(as)
			}
		}
		r.Host = as.Host
	}
	r.Header[mirroredField] = []string{"1"}
	u.Host = m.target.Dial().Address
	trip = new(stock.Trip)
	trip.InitMirror(q.front.stock.Transport, m.target)
	return r, trip
}

// Mirrorable reports whether the header of a copyable request allows a copy.
func (q *Request) Mirrorable() bool {
	h := q.request.Header
	return !q.Upgrade() && h["Expect"] == nil && h[mirroredField] == nil
}
