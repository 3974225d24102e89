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

// prepareBody makes the body that is sent of the client's.
func (x *Request) prepareBody(r *http.Request, header http.Header) error {
	f := x.front
	buffers := f.stock.RequestBuffers
	r.Trailer = r.Trailer.Clone()
	switch {
	case r.Body == nil:
	case buffers == 0 && r.ContentLength == 0 && len(r.Trailer) == 0:
		r.Body = nil
	default:
		if r.Trailer == nil {
			r.Trailer = make(http.Header)
		}
		r.Body = &trailedBody{ReadCloser: r.Body, original: x.original, trailer: r.Trailer}
	}
	if x.incremental {
		if f.conflicts(r) {
			return x.refuseIncremental(nil)
		}
		normalizeIncremental(r)
	}
	if buffers != 0 && r.Body != nil && !x.incremental {
		whole, rest := readUpTo(r.Body, buffers)
		if r.Body = rest; whole != nil {
			x.body = whole
			r.ContentLength = int64(len(whole.content))
			header["Content-Length"] = []string{strconv.FormatInt(r.ContentLength, 10)}
		}
	}
	// HTTP/1 has trailers of chunked bodies only. Transports that need a length have no trailers.
	if len(r.Trailer) > 0 && r.Body != nil && !f.requiresLength {
		r.ContentLength = -1
		header.Del("Content-Length")
	}
	if r.ContentLength == 0 {
		r.Body, x.body = nil, nil // golang/go#16036: only without one does the transport try again by itself
	}
	return nil
}

// requestBody is a request's body that has been read as a whole.
type requestBody struct{ content []byte }

// rewind has r send it from its beginning.
func (b *requestBody) rewind(r *http.Request) {
	if b != nil {
		r.Body = io.NopCloser(bytes.NewReader(b.content))
	}
}

// readUpTo reads a body up to limit bytes, or to its end if limit is negative. It returns what there is if that is all, and otherwise a
// body that begins with it. One that breaks off is passed on as it is.
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

// trailedBody is a body that has its trailers be those of the client's request at its end, which is when net/http knows them, and before
// the transport writes them.
type trailedBody struct {
	io.ReadCloser
	original *http.Request // nil once its trailers are known
	trailer  http.Header
}

// Read implements [io.Reader].
func (b *trailedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF && b.original != nil {
		// Nothing is written where there are none: a small body is read while the transport looks at the request.
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

// Incremental messages are passed on as they come (RFC 10036), which buffers are against.

func isIncremental(h http.Header) bool {
	_, said := h["Incremental"]
	return said && caddyhttp.IsIncremental(h)
}

// hasContent reports whether a request may have content that is worth passing on as it comes. Of HTTP/3 the length of none is unknown, too.
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

// normalizeIncremental takes what is no body from an incremental request.
func normalizeIncremental(r *http.Request) {
	if !hasContent(r) {
		r.ContentLength, r.Body = 0, nil
	}
}

// errIncrementalRefused is the error of messages that were to be passed on as they come.
var errIncrementalRefused = errors.New("refusing to forward the message incrementally")

// refuseIncremental returns the error of such a message; upstream is its header if it is an answer.
func (x *Request) refuseIncremental(upstream http.Header) error {
	if value, ok := proxyStatus(x.front.stock.ProxyStatusName, upstream, "incremental_refused"); ok {
		x.w.Header().Set("Proxy-Status", value)
	}
	return caddyhttp.Error(http.StatusNotImplemented, errIncrementalRefused)
}

// proxyStatus is a Proxy-Status field (RFC 9209) with that error, after what those before have said. ok is false if we have no name.
func proxyStatus(name string, upstream http.Header, problem string) (value string, ok bool) {
	if name == "" {
		return "", false
	}
	list, err := httpsfv.UnmarshalList(upstream.Values("Proxy-Status"))
	if err != nil || slices.ContainsFunc(list, func(m httpsfv.Member) bool { return !isProxy(m) }) {
		list = nil // it is not passed on
	}
	item := httpsfv.NewItem(httpsfv.Token(name))
	item.Params.Add("error", httpsfv.Token(problem))
	if _, err := httpsfv.Marshal(item); err != nil {
		item.Value = name // a string, where a token cannot hold it
	}
	value, err = httpsfv.Marshal(append(list, item))
	return value, err == nil
}

// isProxy reports whether a member of Proxy-Status is one: a token or a string.
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

// conflicts reports whether buffering is asked for, or needed, where content is to be passed on as it comes.
func (f *Front) conflicts(r *http.Request) bool {
	if !hasContent(r) {
		return false
	}
	if f.stock.RequestBuffers != 0 && (!f.stock.BuffersFromTransport || !f.requiresLength) {
		return true
	}
	return r.ContentLength < 0 && f.requiresLength
}
