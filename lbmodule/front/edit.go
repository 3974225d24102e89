package front

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// This file is about header operations for a [Lean]. A Lean supports operations if their names and values are the same for all requests,
// apart from a few placeholders, and if they do not change a field that determines how a message is framed or handled. "Take" below means
// to support.

// TakesRequestEdits reports whether these operations can be applied to requests before they get to the load balancer.
func TakesRequestEdits(ops *headers.HeaderOps) bool { return onWay.take(ops) }

// TakesAnswerEdits reports whether these operations of handlers around the load balancer can be applied to answers.
func TakesAnswerEdits(ops *headers.RespHeaderOps) bool {
	switch {
	case ops == nil:
		return true
	case IsDeferred(ops):
		return onAnswer.take(ops.HeaderOps)
	default:
		return onHeader.take(ops.HeaderOps)
	}
}

// IsDeferred reports whether operations on answers are applied when the head is written, rather than before there is an answer.
func IsDeferred(ops *headers.RespHeaderOps) bool { return ops.Deferred || ops.Require != nil }

// EditsHost reports whether the operations may change a request's host.
func EditsHost(ops *headers.HeaderOps) bool {
	if ops == nil {
		return false
	}
	const host = "Host"
	for _, set := range []http.Header{ops.Add, ops.Set} {
		for name := range set {
			if http.CanonicalHeaderKey(name) == host {
				return true
			}
		}
	}
	return slices.ContainsFunc(ops.Delete, func(pattern string) bool { return deletes(pattern, host) })
}

// edits describes which operations are taken.
type edits struct {
	fixed        []string          // fields that no operation may set or replace, by their canonical names
	kept         []string          // fields that no operation may delete
	placeholders *strings.Replacer // removes the placeholders that values may have; nil if values may have none
	hosts        []string          // placeholders that Host may be set to, besides constants; empty for none
	request      bool
}

var (
	// These fields decide how a request is sent and repeated, and whether it is a stream.
	requestFixed = []string{
		"Connection", "Proxy-Connection", "Keep-Alive", "Close", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "Expect",
		"Content-Type", "Incremental", "Idempotency-Key", "X-Idempotency-Key",
	}
	requestKept = []string{"Idempotency-Key", "X-Idempotency-Key"}
	answerFixed = []string{"Connection", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "Incremental"}

	onWay     = edits{fixed: requestFixed, kept: requestKept, request: true}
	onRequest = edits{fixed: requestFixed, kept: requestKept, request: true, placeholders: known, hosts: []string{
		"{" + upstreamHostport + "}", "{" + requestHost + "}", "{" + requestHostport + "}",
	}}
	onHeader = edits{fixed: answerFixed} // for operations that are applied before there is an answer
	// Trailers are sent only if the field announces them. Without a Content-Type, net/http's server guesses one.
	onAnswer   = edits{fixed: answerFixed, kept: []string{"Trailer", "Content-Type"}}
	onBackends = edits{fixed: answerFixed} // Trailer and Content-Type are set afterwards
)

// The placeholders that header_up may have.
const (
	upstreamHostport = placeholderPrefix + "upstream.hostport"
	requestHost      = "http.request.host"
	requestHostport  = "http.request.hostport"
	requestScheme    = "http.request.scheme"
	remoteHost       = "http.request.remote.host"
	clientIP         = "http.vars.client_ip"
)

var known = strings.NewReplacer("{"+upstreamHostport+"}", "", "{"+requestHost+"}", "", "{"+requestHostport+"}", "", "{"+requestScheme+"}", "",
	"{"+remoteHost+"}", "", "{"+clientIP+"}", "")

// take reports whether the operations are taken.
func (e *edits) take(ops *headers.HeaderOps) bool {
	if ops == nil {
		return true
	}
	for _, set := range []http.Header{ops.Add, ops.Set} {
		for name, values := range set {
			if !e.takesName(name) || slices.ContainsFunc(values, func(v string) bool { return !e.takesValue(name, v) }) {
				return false
			}
			if e.isHost(name) && len(values) != 1 {
				return false
			}
		}
	}
	for _, pattern := range ops.Delete {
		if strings.ContainsAny(pattern, "{}") || slices.ContainsFunc(e.kept, func(name string) bool { return deletes(pattern, name) }) {
			return false
		}
	}
	for name, all := range ops.Replace {
		if name == "*" || !e.takesName(name) || e.isHost(name) {
			return false
		}
		for _, r := range all {
			if strings.ContainsAny(r.Search+r.SearchRegexp+r.Replace, "{}") || !httpguts.ValidHeaderFieldValue(r.Replace) {
				return false
			}
		}
	}
	return true
}

func (e *edits) takesName(name string) bool {
	return httpguts.ValidHeaderFieldName(name) && !slices.Contains(e.fixed, http.CanonicalHeaderKey(name))
}

func (e *edits) takesValue(name, value string) bool {
	if e.isHost(name) {
		return slices.Contains(e.hosts, value) || isPlainHost(value)
	}
	if e.placeholders != nil && strings.ContainsRune(value, '{') && !strings.ContainsRune(value, '\\') {
		value = e.placeholders.Replace(value)
	}
	return !strings.ContainsAny(value, "{}") && httpguts.ValidHeaderFieldValue(value)
}

// isHost reports whether the field of that name is a request's host.
func (e *edits) isHost(name string) bool { return e.request && http.CanonicalHeaderKey(name) == "Host" }

// isPlainHost reports whether a host is sent to backends unchanged.
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

// deletes reports whether a pattern of fields to delete matches the field of that name.
func deletes(pattern, name string) bool {
	pattern, name = strings.ToLower(pattern), strings.ToLower(name)
	begins, ends := strings.HasPrefix(pattern, "*"), strings.HasSuffix(pattern, "*")
	switch {
	case pattern == "*":
		return true
	case begins && ends:
		return strings.Contains(name, pattern[1:len(pattern)-1])
	case begins:
		return strings.HasSuffix(name, pattern[1:])
	case ends:
		return strings.HasPrefix(name, pattern[:len(pattern)-1])
	default:
		return name == pattern
	}
}

// refusesEdits returns why the load balancer's own operations are not taken; "" if they are.
func (f *Front) refusesEdits() (why string) {
	s := f.stock
	switch {
	case !onRequest.take(s.TransportHeaders) || !onRequest.take(s.RequestHeaders):
		return "header_up"
	case s.ResponseHeaders != nil && !onBackends.take(s.ResponseHeaders.HeaderOps):
		return "header_down"
	}
	return ""
}

// EditsRequests reports whether there are operations on the header of requests.
func (f *Front) EditsRequests() bool { return f.headers }

// EditsAnswers reports whether there are operations on the header of backends' answers.
func (f *Front) EditsAnswers() bool { return f.stock.ResponseHeaders != nil }

// constant is a request for applying operations without placeholders; empty is its replacer.
var (
	empty    = caddy.NewEmptyReplacer()
	constant = new(http.Request).WithContext(context.WithValue(context.Background(), caddy.ReplacerCtxKey, empty))
)

// EditRequest applies operations without placeholders to a request's header, and returns its host after them.
func EditRequest(ops *headers.HeaderOps, header http.Header, host string) string {
	return editRequest(ops, constant, header, host)
}

func editRequest(ops *headers.HeaderOps, as *http.Request, header http.Header, host string) string {
	r := *as
	r.Header, r.Host = header, host
	ops.ApplyToRequest(&r)
	return r.Host
}

// EditAnswer applies operations without placeholders to the header of an answer with that status, if it meets their conditions. Operations
// that are not deferred have no conditions.
func EditAnswer(ops *headers.RespHeaderOps, status int, header http.Header) {
	if ops.Require == nil || ops.Require.Match(status, header) {
		ops.ApplyTo(header, empty)
	}
}

// Asked holds the values of placeholders for a request.
type Asked struct {
	Host     string
	Secure   bool   // the request came over TLS
	Remote   string // the host of the client's address
	ClientIP string
}

// EditRequest applies the load balancer's operations to the header of a request for that target, and returns its host after them.
func (f *Front) EditRequest(a *Asked, to course.Target, header http.Header, host string) string {
	as := constant
	if f.asks {
		repl := caddy.NewEmptyReplacer()
		repl.Map(func(name string) (any, bool) { return a.placeholder(name, to.(*stock.Target)) })
		as = constant.WithContext(context.WithValue(context.Background(), caddy.ReplacerCtxKey, repl))
	}
	for _, ops := range []*headers.HeaderOps{f.stock.TransportHeaders, f.stock.RequestHeaders} {
		if ops != nil {
			host = editRequest(ops, as, header, host)
		}
	}
	return host
}

func (a *Asked) placeholder(name string, to *stock.Target) (any, bool) {
	switch name {
	case upstreamHostport:
		return to.Dial().Address, true
	case requestHost:
		if host, _, err := net.SplitHostPort(a.Host); err == nil {
			return host, true
		}
		return a.Host, true
	case requestHostport:
		return a.Host, true
	case requestScheme:
		if a.Secure {
			return "https", true
		}
		return "http", true
	case remoteHost:
		return a.Remote, true
	case clientIP:
		return a.ClientIP, true
	}
	return nil, false
}

// asksOf reports whether operations have placeholders.
func asksOf(ops *headers.HeaderOps) bool {
	if ops == nil {
		return false
	}
	for _, set := range []http.Header{ops.Add, ops.Set} {
		for _, values := range set {
			if slices.ContainsFunc(values, func(v string) bool { return strings.ContainsRune(v, '{') }) {
				return true
			}
		}
	}
	return false
}

// EditAnswer applies the load balancer's operations to the header of a backend's answer.
func (f *Front) EditAnswer(status int, header http.Header) {
	if ops := f.stock.ResponseHeaders; ops != nil {
		EditAnswer(ops, status, header)
	}
}

// SentHost returns the Host that is sent to that target. As in net/http's transport, a host that cannot be sent becomes empty.
func SentHost(host string, to course.Target) string {
	if host == "" {
		host = to.(*stock.Target).Dial().Address
	}
	if isPlainHost(host) {
		return host
	}
	host, err := httpguts.PunycodeHostPort(host)
	if err != nil || !httpguts.ValidHostHeader(host) {
		return ""
	}
	return withoutZone(host)
}

// withoutZone returns the host without the zone of an IPv6 address, which means something on this machine only.
func withoutZone(host string) string {
	end := strings.LastIndexByte(host, ']')
	if !strings.HasPrefix(host, "[") || end < 0 {
		return host
	}
	zone := strings.LastIndexByte(host[:end], '%')
	if zone < 0 {
		return host
	}
	return host[:zone] + host[end:]
}
