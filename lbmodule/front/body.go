package front

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dunglas/httpsfv"
)

// prepareBody makes the body for the backend from the client's.
func (q *Request) prepareBody(r *http.Request, header http.Header) error {
	f := q.front
	buffers := f.stock.RequestBuffers
	r.Trailer = r.Trailer.Clone()
	switch {
	case r.Body == nil:
	case buffers == 0 && r.ContentLength == 0 && len(r.Trailer) == 0:
		r.Body = nil
	case r.ProtoMajor == 1 && r.ContentLength > 0 && len(r.Trailer) == 0: // cannot have trailers
	default:
		if r.Trailer == nil {
			r.Trailer = make(http.Header)
		}
		r.Body = &trailedBody{ReadCloser: r.Body, original: q.original, trailer: r.Trailer}
	}
	if q.incremental {
		if f.conflicts(r) {
			return q.refuseIncremental(nil)
		}
		normalizeIncremental(r)
	}
	if buffers != 0 && r.Body != nil && !q.incremental {
		whole, rest := readUpTo(r.Body, buffers)
		if r.Body = rest; whole != nil {
			q.body = whole
			r.ContentLength = int64(len(whole.content))
			header["Content-Length"] = []string{strconv.FormatInt(r.ContentLength, 10)}
		}
	}
	// In HTTP/1, only chunked bodies have trailers. Transports that need a length cannot send trailers.
	if len(r.Trailer) > 0 && r.Body != nil && !f.requiresLength {
		r.ContentLength = -1
		header.Del("Content-Length")
	}
	if r.ContentLength == 0 {
		r.Body, q.body = nil, nil // golang/go#16036: the transport tries again by itself only without a body
	}
	return nil
}

// requestBody is a buffered request body.
type requestBody struct{ content []byte }

// rewind makes r send the body from its beginning.
func (b *requestBody) rewind(r *http.Request) {
	if b != nil {
		r.Body = io.NopCloser(bytes.NewReader(b.content))
	}
}

// readUpTo reads a body up to limit bytes, or to its end if limit is negative. If it reaches the end, it returns the whole body. Otherwise,
// also after an error, it returns a body that starts with the bytes read.
func readUpTo(body io.ReadCloser, limit int64) (*requestBody, io.ReadCloser) {
	from := io.Reader(body)
	if limit > 0 {
		from = io.LimitReader(body, limit)
	}
	var read bytes.Buffer
	n, err := read.ReadFrom(from)
	if err != nil || n == limit {
		return nil, &joined{io.MultiReader(&read, body), body}
	}
	body.Close()
	return &requestBody{read.Bytes()}, io.NopCloser(&read)
}

// joined reads from one and closes another.
type joined struct {
	io.Reader
	io.Closer
}

// trailedBody is a body that copies the trailers of the client's request at its end. That is when net/http knows them, and just before the
// transport writes them.
type trailedBody struct {
	io.ReadCloser
	original *http.Request // nil once its trailers are copied
	trailer  http.Header
}

// Read implements [io.Reader].
func (b *trailedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF && b.original != nil {
		// Without trailers nothing may be written, because a small body is read while the transport reads the request.
		if len(b.trailer) > 0 || len(b.original.Trailer) > 0 {
			clear(b.trailer)
			for name, values := range b.original.Trailer {
				b.trailer[name] = slices.Clone(values)
			}
		}
		b.original = nil
	}
	return n, err
}

// Incremental messages must be forwarded as they arrive (RFC 10036), which buffering would prevent.

func isIncremental(h http.Header) bool {
	_, said := h["Incremental"]
	return said && caddyhttp.IsIncremental(h)
}

// hasContent reports whether a request may have content. In HTTP/3, the length may be unknown although there is no content; the method then
// decides.
func hasContent(r *http.Request) bool {
	if r.ContentLength >= 0 {
		return r.ContentLength > 0
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodDelete, http.MethodTrace, http.MethodConnect:
		return false
	}
	return true
}

// normalizeIncremental removes the body of an incremental request that has no content.
func normalizeIncremental(r *http.Request) {
	if !hasContent(r) {
		r.ContentLength, r.Body = 0, nil
	}
}

// errIncrementalRefused is the error for incremental messages that would have to be buffered.
var errIncrementalRefused = errors.New("refusing to forward the message incrementally")

// refuseIncremental returns the error for an incremental message that cannot be forwarded; upstream is its header if it is an answer.
func (q *Request) refuseIncremental(upstream http.Header) error {
	if value, ok := proxyStatus(q.front.stock.ProxyStatusName, upstream, "incremental_refused"); ok {
		q.w.Header().Set("Proxy-Status", value)
	}
	return caddyhttp.Error(http.StatusNotImplemented, errIncrementalRefused)
}

// proxyStatus returns a Proxy-Status field (RFC 9209) with that error, after the entries of earlier proxies. ok is false if this proxy has
// no name.
func proxyStatus(name string, upstream http.Header, problem string) (value string, ok bool) {
	if name == "" {
		return "", false
	}
	list, err := httpsfv.UnmarshalList(upstream.Values("Proxy-Status"))
	if err != nil || slices.ContainsFunc(list, func(m httpsfv.Member) bool { return !isProxy(m) }) {
		list = nil // an invalid field is not passed on
	}
	item := httpsfv.NewItem(httpsfv.Token(name))
	item.Params.Add("error", httpsfv.Token(problem))
	if _, err := httpsfv.Marshal(item); err != nil {
		item.Value = name // a string, because the name is not a token
	}
	value, err = httpsfv.Marshal(append(list, item))
	return value, err == nil
}

// isProxy reports whether a member of Proxy-Status is valid: a token or a string.
func isProxy(m httpsfv.Member) bool {
	item, ok := m.(httpsfv.Item)
	if !ok {
		return false
	}
	switch item.Value.(type) {
	case string, httpsfv.Token:
		return true
	}
	return false
}

// conflicts reports whether an incremental request would have to be buffered.
func (f *Front) conflicts(r *http.Request) bool {
	if !hasContent(r) {
		return false
	}
	if f.stock.RequestBuffers != 0 && (!f.stock.BuffersFromTransport || !f.requiresLength) {
		return true
	}
	return r.ContentLength < 0 && f.requiresLength
}
