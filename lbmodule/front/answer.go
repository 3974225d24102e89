package front

import (
	"bufio"
	"context"
	"errors"
	"mime"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quic-go/quic-go/http3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// Fail returns the error to answer the client with when the attempts have ended with err; nil if the client has left.
func (q *Request) Fail(err error) error {
	if refusal := q.received.Refusal(q.original.Context()); refusal != nil {
		err = refusal // the client's body broke off: that is the cause, whatever err says
	}
	if errors.Is(err, context.Canceled) {
		q.w.WriteHeader(pool.StatusCanceled) // for the access log
		return nil
	}
	return statusError(err)
}

// statusError wraps an error with a status: 504 for a timeout, 499 for a cancellation, 502 for others.
func statusError(err error) error {
	status := http.StatusBadGateway
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() { //nolint:errorlint // of one that wraps a timeout reverse_proxy makes 502
		status = http.StatusGatewayTimeout
	}
	// Some errors of the net package do not wrap context.Canceled (caddyserver/caddy#3748).
	if errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "operation was canceled") {
		status = pool.StatusCanceled
	}
	return caddyhttp.Error(status, err)
}

// Answer passes the answer of the last attempt to the client. The error must be returned to the server.
func (q *Request) Answer(res *http.Response, next caddyhttp.Handler) error {
	for i := range q.front.stock.Responses {
		rh := &q.front.stock.Responses[i]
		if rh.Match != nil && !rh.Match.Match(res.StatusCode, res.Header) {
			continue
		}
		if text := rh.StatusCode.String(); text != "" {
			status, err := strconv.Atoi(q.repl.ReplaceAll(text, ""))
			if err != nil {
				res.Body.Close()
				return statusError(caddyhttp.Error(http.StatusInternalServerError, err))
			}
			if status != 0 {
				res.StatusCode = status
			}
			break
		}
		if c := q.front.logger.Check(zapcore.DebugLevel, "handling response"); c != nil {
			c.Write(append(q.roundTripFields(q.took), zap.Int("handler", i))...)
		}
		return q.delegate(res, next, func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
			return rh.Routes.Compile(next).ServeHTTP(w, r)
		})
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		return q.delegate(res, next, func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
			ctx := r.Context()
			if q.tunnel != nil && r.ProtoMajor == 1 {
				var end func()
				ctx, end = q.tunnel.apart(ctx)
				defer end()
			}
			return stock.CopyResponse(w, q.sent.WithContext(ctx), next)
		})
	}
	return q.pass(res)
}

// delegate hands the answer to reverse_proxy, which calls proceed with its own context.
func (q *Request) delegate(res *http.Response, next caddyhttp.Handler, proceed func(http.ResponseWriter, *http.Request, caddyhttp.Handler) error) error {
	q.release() // from now on reverse_proxy counts the request
	q.handed = true
	defer q.delegated()
	body := res.Body
	if res.StatusCode == http.StatusSwitchingProtocols {
		res.Body = http.NoBody // reverse_proxy would buffer the bytes of the tunnel
	}
	return q.front.stock.Delegate(&untyped{caddyhttp.ResponseWriterWrapper{ResponseWriter: q.w}, q.tunnel}, q.original, next, &stock.HandOver{
		Upstream: q.target.Upstream, Response: res,
		Continue: func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
			// Keep reverse_proxy's placeholders of the header, which is about to change; drop those of the upstream, which are incomplete.
			q.repl.DeleteByPrefix(placeholderPrefix + "upstream.")
			if res.StatusCode == http.StatusSwitchingProtocols {
				res.Body = body
			}
			return proceed(w, r, next)
		},
	})
}

// delegated makes the placeholders show this request again after reverse_proxy has ended, unless another proxy has handled it since.
func (q *Request) delegated() {
	q.forgetTotals()
	q.hidden = true
	_, another := q.repl.Get(placeholderPrefix + "upstream.address")
	_, copied := q.repl.Get(placeholderPrefix + "upstream.duration")
	if q.hidden = false; another {
		return
	}
	if copied {
		q.copied = time.Now()
	}
	q.repl.DeleteByPrefix(placeholderPrefix + "upstream.")
}

// untyped keeps the server from guessing a Content-Type that the backend did not send. See [Request.pass]. It is also the client's side of
// a tunnel.
type untyped struct {
	caddyhttp.ResponseWriterWrapper
	tunnel *tunnel // nil unless the backend has switched protocols
}

// Hijack implements [http.Hijacker].
func (w *untyped) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.tunnel == nil {
		return http.NewResponseController(w.ResponseWriter).Hijack()
	}
	return w.tunnel.hijack(w.ResponseWriter)
}

// Write implements [io.Writer].
func (w *untyped) Write(p []byte) (int, error) {
	if w.tunnel == nil || !w.tunnel.begun.Load() {
		return w.ResponseWriter.Write(p)
	}
	return w.tunnel.writeDown(p, w.ResponseWriter.Write)
}

// FlushError sends what has been written.
func (w *untyped) FlushError() error {
	if w.tunnel != nil {
		w.tunnel.down.mu.Lock()
		defer w.tunnel.down.mu.Unlock()
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// WriteHeader implements [http.ResponseWriter]. A backend's answer has this proxy's Via; other answers come from routes of handle_response,
// and their type is guessed as usual.
func (w *untyped) WriteHeader(status int) {
	if h := w.Header(); status >= http.StatusOK && slices.ContainsFunc(h["Via"], isOurs) {
		leaveUntyped(h)
	}
	w.ResponseWriter.WriteHeader(status)
}

// isOurs reports whether a Via entry is this proxy's.
func isOurs(via string) bool { return strings.HasSuffix(via, " Caddy") }

// leaveUntyped keeps the server from guessing the type of an answer. A missing Content-Type must stay missing (RFC 9110, 8.3), because a
// wrong guess can turn text into an HTML page.
func leaveUntyped(h http.Header) {
	if _, known := h["Content-Type"]; !known {
		h["Content-Type"] = nil
	}
}

// pass copies an answer to the client.
func (q *Request) pass(res *http.Response) error {
	f := q.front
	incremental := isIncremental(res.Header)
	if f.stock.ResponseBuffers != 0 && !incremental {
		_, res.Body = readUpTo(res.Body, f.stock.ResponseBuffers)
	}
	header := q.w.Header()
	delete(header, "Server") // Via names this proxy instead
	q.via[0] = AnswerVia(res)
	header["Via"] = appendValue(header["Via"], q.via[:])
	from, drops := res.Header, dropsOf(res.Header)
	if ops := f.stock.ResponseHeaders; ops != nil {
		from = from.Clone() // placeholders show the header as it arrived
		drops.strip(from)
		drops = keepsAll // the operations may set any field
		if ops.Require == nil || ops.Require.Match(res.StatusCode, from) {
			ops.ApplyTo(from, q.repl)
		}
		incremental = incremental || isIncremental(from)
	}
	if f.stock.ResponseBuffers != 0 && incremental && answerHasContent(q.sent, res) {
		res.Body.Close()
		return statusError(q.refuseIncremental(from))
	}
	passHeader(header, from, drops, q.current != nil && q.current.Direct() && f.stock.ResponseHeaders == nil)
	announced := len(res.Trailer)
	if announced > 0 {
		names := make([]string, 0, announced)
		for name := range res.Trailer {
			names = append(names, name)
		}
		header.Add("Trailer", strings.Join(names, ", "))
	}
	if res.StatusCode >= http.StatusOK {
		leaveUntyped(header)
	}
	q.w.WriteHeader(res.StatusCode)
	q.verbose("wrote header")
	err := q.copyBody(res.Body, res.ContentLength, f.flushInterval(res, incremental))
	closing := res.Body.Close() // before the trailers, which are known only then
	if f.stock.VerboseLogs || closing != nil {
		if c := f.logger.Check(zapcore.DebugLevel, "closed response body from upstream"); c != nil {
			c.Write(append(q.roundTripFields(q.took), zap.Error(closing))...)
		}
	}
	if err != nil {
		q.abort(err)
	}
	q.passTrailers(res, announced)
	return nil
}

// AnswerVia returns the Via entry for an answer.
func AnswerVia(res *http.Response) string {
	entry := via(res.ProtoMajor, res.ProtoMinor)
	if len(res.Proto) >= 5 && strings.EqualFold(res.Proto[:5], "HTTP/") {
		return entry
	}
	return res.Proto[:strings.Index(res.Proto, "/")+1] + entry
}

// drops are the fields of an answer's header that are not passed on.
type drops struct {
	all   bool     // all hop-by-hop fields
	named []string // the fields that Connection names in addition
}

// keepsAll drops no field.
var keepsAll drops

// dropsOf returns the fields of a header that are not passed on.
func dropsOf(h http.Header) drops {
	d := drops{all: true}
	for _, list := range h["Connection"] {
		if list == "keep-alive" { // the value in most answers that have the field
			continue
		}
		for name := range strings.SplitSeq(list, ",") {
			name = http.CanonicalHeaderKey(textproto.TrimString(name))
			if _, there := h[name]; there && !IsHopByHop(name) {
				d.named = append(d.named, name)
			}
		}
	}
	return d
}

func (d drops) has(name string) bool {
	return d.all && IsHopByHop(name) || slices.Contains(d.named, name)
}

func (d drops) strip(h http.Header) {
	for name := range h {
		if d.has(name) {
			delete(h, name)
		}
	}
}

// passHeader adds the fields of an answer to the client's header, without those that are dropped. canonical says that all names are
// canonical.
func passHeader(to, from http.Header, d drops, canonical bool) {
	n := 0
	for _, values := range from {
		n += len(values)
	}
	all := make([]string, 0, n) // a copy, so that later changes do not affect the backend's header
	for name, values := range from {
		if len(values) == 0 || d.has(name) {
			continue
		}
		if !canonical {
			name = http.CanonicalHeaderKey(name)
		}
		if len(to[name]) > 0 {
			to[name] = append(to[name], values...)
			continue
		}
		all = append(all, values...)
		to[name] = all[len(all)-len(values) : len(all) : len(all)]
	}
}

// answerHasContent reports whether an answer can have content.
func answerHasContent(r *http.Request, res *http.Response) bool {
	switch {
	case r.Method == http.MethodHead, res.Body == nil, res.Body == http.NoBody, res.ContentLength == 0:
		return false
	case r.Method == http.MethodConnect && res.StatusCode >= 200 && res.StatusCode < 300:
		return false
	case res.StatusCode >= 100 && res.StatusCode < 200, res.StatusCode == http.StatusNoContent, res.StatusCode == http.StatusResetContent,
		res.StatusCode == http.StatusNotModified:
		return false
	}
	return true
}

// abort panics to break off an answer that cannot be completed, so that the client sees that it is incomplete.
func (q *Request) abort(err error) {
	level := zapcore.WarnLevel
	if isCanceledHTTP3(err) {
		level = zapcore.DebugLevel // see caddyserver/caddy#5766
	}
	if c := q.front.logger.Check(level, "aborting with incomplete response"); c != nil {
		c.Write(append(q.roundTripFields(q.took), zap.Error(err))...)
	}
	_ = http.NewResponseController(q.w).Flush() // send the part so far (caddyserver/caddy#7845)
	panic(http.ErrAbortHandler)
}

// isCanceledHTTP3 reports whether the client has canceled an answer over HTTP/3. A backend can cause the same error, but not as a write
// error.
func isCanceledHTTP3(err error) bool {
	if !errors.Is(err, errWriting) {
		return false
	}
	h3, ok := errors.AsType[*http3.Error](err)
	return ok && h3.Remote && h3.ErrorCode == http3.ErrCodeRequestCanceled
}

// passTrailers passes on the trailers.
func (q *Request) passTrailers(res *http.Response, announced int) {
	if len(res.Trailer) > 0 {
		// Without this the server adds a Content-Length to a short answer, which excludes trailers.
		_ = http.NewResponseController(q.w).Flush()
	}
	q.copied = time.Now()
	header := q.w.Header()
	if len(res.Trailer) == announced {
		copyHeader(header, res.Trailer)
		return
	}
	for name, values := range res.Trailer {
		for _, v := range values {
			header.Add(http.TrailerPrefix+name, v)
		}
	}
	q.verbose("response finalized")
}

// flushInterval returns the maximum delay before a part of an answer is passed on: 0 if no delay is set, negative for at once.
func (f *Front) flushInterval(res *http.Response, incremental bool) time.Duration {
	if incremental || res.ContentLength == -1 || isEvents(res.Header["Content-Type"]) {
		return -1
	}
	return f.stock.FlushInterval
}

// isEvents reports whether a Content-Type is that of server-sent events.
func isEvents(values []string) bool {
	const events = "text/event-stream"
	if len(values) == 0 {
		return false
	}
	contentType := values[0]
	if name, _, _ := strings.Cut(contentType, ";"); !strings.EqualFold(strings.TrimSpace(name), events) {
		return false
	}
	name, _, err := mime.ParseMediaType(contentType)
	return err == nil && name == events
}
