package lane

import (
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/front"
	"github.com/ballastlb/ballast/listener/told"
)

// edit has the results of header operations on a request and its answer, in the order of Caddy's handlers.
type edit struct {
	passed   int                      // number of the way's operations that were applied
	header   http.Header              // the request's; nil if no operation is about requests
	host     string                   // the request's; set with header
	grown    int                      // by how many bytes the operations have extended the request
	answer   http.Header              // the fields that were set before there was an answer, and then the answer's
	deferred []*headers.RespHeaderOps // operations on the answer that are applied at its end
}

// beginEdit prepares for header operations, if there are any.
func (x *request) beginEdit() {
	way := x.conn.way
	if len(way.Edits) == 0 && !way.Front.EditsRequests() && !way.Front.EditsAnswers() {
		return
	}
	x.edit = &edit{answer: http.Header{"Server": {"Caddy"}}}
	if x.site.AltSvc != nil {
		if value := x.site.AltSvc(); value != "" {
			x.edit.answer["Alt-Svc"] = []string{value}
		}
	}
	x.answer.header = x.edit.answer
}

// editUpTo applies the operations of the way that come before the limit with that number.
func (x *request) editUpTo(limit int) {
	e := x.edit
	if e == nil {
		return
	}
	for _, next := range x.conn.way.Edits[e.passed:] {
		if next.Limits > limit {
			return
		}
		e.passed++
		if next.Request != nil {
			e.open(x)
			before := sizeOf(e.header, e.host)
			e.host = front.EditRequest(next.Request, e.header, e.host)
			e.grown += sizeOf(e.header, e.host) - before
		}
		switch {
		case next.Response == nil:
		case front.IsDeferred(next.Response):
			e.deferred = append(e.deferred, next.Response)
		default:
			front.EditAnswer(next.Response, 0, e.answer)
		}
	}
}

// open copies the request's header, unless that has happened.
func (e *edit) open(x *request) {
	if e.header == nil {
		h := &x.conn.head
		e.header, e.host = told.Header(h), string(h.Host.Of(h.Raw))
	}
}

// again returns the request's header and host after the way's operations, before [edit.prepare]; nil if no operation was about requests.
func (e *edit) again(x *request) (header http.Header, host string) {
	for _, passed := range x.conn.way.Edits[:e.passed] {
		if passed.Request == nil {
			continue
		}
		if header == nil {
			h := &x.conn.head
			header, host = told.Header(h), string(h.Host.Of(h.Raw))
		}
		host = front.EditRequest(passed.Request, header, host)
	}
	return header, host
}

// sizeOf returns the size of a header as Caddy's metrics compute it.
func sizeOf(header http.Header, host string) int {
	size := len(host)
	for name, values := range header {
		size += len(name)
		for _, v := range values {
			size += len(v)
		}
	}
	return size
}

// prepare turns the request's header into the one for backends, as [front.Request] does.
func (e *edit) prepare(x *request) {
	if e.header == nil {
		if !x.conn.way.Front.EditsRequests() {
			return
		}
		e.open(x)
	}
	header := e.header
	maps.DeleteFunc(header, func(name string, _ []string) bool { return front.IsHopByHop(name) })
	if _, ok := header["User-Agent"]; !ok {
		header["User-Agent"] = []string{""} // otherwise the transport would add its own
	}
	x.setForwarded(header, e.host)
	header["Via"] = append(slices.Clip(header["Via"]), "1.1 Caddy")
}

func scheme(secure bool) string {
	if secure {
		return "https"
	}
	return "http"
}

// editedHead is the head of an attempt whose header was changed by operations.
type editedHead struct {
	request *request
	header  http.Header
	host    string
}

// headFor returns the head of the request to that target.
func (x *request) headFor(to course.Target) front.Head {
	e := x.edit
	if e == nil || e.header == nil {
		return x
	}
	of := x.conn.way.Front
	h := &editedHead{x, e.header, e.host}
	if of.EditsRequests() {
		h.header = make(http.Header, len(e.header)+1)
		for name, values := range e.header {
			h.header[name] = slices.Clone(values) // operations replace values in place
		}
		h.host = of.EditRequest(x.asked(), to, h.header, h.host)
	}
	h.host = front.SentHost(h.host, to)
	return h
}

// asked returns the request for the placeholders of operations.
func (x *request) asked() *front.Asked {
	c := x.conn
	remote, _, err := net.SplitHostPort(c.client.Remote)
	if err != nil {
		remote = c.client.Remote
	}
	return &front.Asked{Host: x.edit.host, Secure: c.client.TLS != nil, Remote: remote, ClientIP: x.ip}
}

// AppendHead implements [front.Head].
func (h *editedHead) AppendHead(b []byte, askGzip bool) []byte {
	x := h.request
	b = x.appendRequestLine(b)
	b = append(b, h.host...)
	b = x.appendLength(b)
	// net/http's transport sends one User-Agent, its own if there is none, and none that is empty.
	if agents, ok := h.header["User-Agent"]; !ok {
		b = append(b, "User-Agent: Go-http-client/1.1\r\n"...)
	} else if len(agents) > 0 && agents[0] != "" {
		b = appendField(b, "User-Agent", trimmed(agents[0]))
	}
	for _, name := range slices.Sorted(maps.Keys(h.header)) {
		switch name {
		case "Host", "User-Agent", "Content-Length", "Transfer-Encoding", "Trailer":
			continue
		}
		for _, v := range h.header[name] {
			b = appendField(b, name, trimmed(v))
		}
	}
	if askGzip {
		b = append(b, "Accept-Encoding: gzip\r\n"...)
	}
	b = append(b, "\r\n"...)
	return append(b, x.content...)
}

// MayAskGzip implements [front.Head].
func (h *editedHead) MayAskGzip() bool {
	return h.request.conn.head.Method != http.MethodHead && h.header.Get("Accept-Encoding") == "" && h.header.Get("Range") == ""
}

func trimmed(value string) string { return strings.Trim(value, " \t") }

// editAnswer sets x.answer.header to the fields of a backend's answer, edited as [front.Request] does.
func (x *request) editAnswer(res *http.Response) {
	header := x.edit.answer
	delete(header, "Server")
	header["Via"] = append(header["Via"], front.AnswerVia(res))
	for name, values := range x.Lean.Tells() {
		header[name] = append(header[name], values...)
	}
	from := x.answered(res)
	x.conn.way.Front.EditAnswer(res.StatusCode, from)
	addTo(header, from)
	if len(res.Trailer) > 0 {
		header.Add("Trailer", trailerNames(res))
	}
	if _, typed := header["Content-Type"]; !typed {
		header["Content-Type"] = nil // so net/http's server does not guess it
	}
	x.edit.applyDeferred(res.StatusCode, header)
}

// answered returns the header of a backend's answer without the fields that are for its connection only.
func (x *request) answered(res *http.Response) http.Header {
	lines := x.Lean.Lines()
	from := make(http.Header, lines.Len())
	values := make([]string, lines.Len())
	for i := range lines.Len() {
		name, value := lines.At(i)
		if front.IsHopByHop(name) || name == "Content-Length" || name == "Content-Encoding" && res.Uncompressed {
			continue
		}
		if before, ok := from[name]; ok {
			from[name] = append(before, value)
			continue
		}
		values[i] = value
		from[name] = values[i : i+1 : i+1]
	}
	for _, name := range []string{"Content-Length", "Cache-Control"} { // as the reader of the answer has left or set them
		if told := res.Header[name]; told != nil {
			from[name] = slices.Clone(told)
		}
	}
	if connection := res.Header["Connection"]; len(connection) > 0 {
		maps.DeleteFunc(from, func(name string, _ []string) bool { return isNamed(connection, name) })
	}
	return from
}

// addTo adds the fields of from to header.
func addTo(header, from http.Header) {
	for name, values := range from {
		name = http.CanonicalHeaderKey(name)
		header[name] = append(header[name], values...)
	}
}

// applyDeferred applies the deferred operations to the header of an answer with that status: the inner ones first.
func (e *edit) applyDeferred(status int, header http.Header) {
	for _, ops := range slices.Backward(e.deferred) {
		front.EditAnswer(ops, status, header)
	}
}

// informed returns the header of an informational answer.
func (e *edit) informed(status int, header http.Header) http.Header {
	all := e.answer.Clone()
	addTo(all, header)
	e.applyDeferred(status, all)
	return all
}

// addEdited adds the fields of a header that are sent.
func (f *fields) addEdited(header http.Header, status int) {
	for name, values := range header {
		switch name {
		case "Content-Length", "Transfer-Encoding":
			if !allowsBody(status) {
				continue
			}
		case "Content-Type":
			if status == http.StatusNotModified {
				continue
			}
		}
		if !httpguts.ValidHeaderFieldName(name) {
			continue
		}
		for _, v := range values {
			f.add(name, trimmed(v))
		}
	}
}

// appendEdited appends the head of a backend's answer.
func (x *request) appendEdited(b []byte, res *http.Response, form form) []byte {
	header, f := x.answer.header, &x.answer.fields
	f.reset()
	f.addEdited(header, res.StatusCode)
	b = f.appendTo(appendStatus(b, res.StatusCode))
	_, dated := header["Date"]
	b = x.appendDate(b, dated)
	if form == sized && header["Content-Length"] == nil {
		b = append(b, "Content-Length: "...)
		b = append(strconv.AppendInt(b, res.ContentLength, 10), "\r\n"...)
	}
	return x.appendEnd(b, form)
}
