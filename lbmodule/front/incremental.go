package front

import (
	"errors"
	"net/http"
	"slices"

	"github.com/dunglas/httpsfv"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Incremental messages are passed on as they come (RFC 10036), which buffers are against.

func isIncremental(h http.Header) bool {
	_, said := h["Incremental"]
	return said && caddyhttp.IsIncremental(h)
}

// hasContent tells whether a request may have content that is worth passing on as it comes. Of HTTP/3 the length of none is unknown, too.
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

// isProxy tells whether a member of Proxy-Status is one: a token or a string.
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

// conflicts tells whether buffering is asked for, or needed, where content is to be passed on as it comes.
func (f *Front) conflicts(r *http.Request) bool {
	if !hasContent(r) {
		return false
	}
	if f.stock.RequestBuffers != 0 && (!f.stock.BuffersFromTransport || !f.requiresLength) {
		return true
	}
	return r.ContentLength < 0 && f.requiresLength
}
