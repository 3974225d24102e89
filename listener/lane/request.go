package lane

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/exchange"
	"github.com/ballastlb/ballast/lbmodule/front"
	"github.com/ballastlb/ballast/lbmodule/observe"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/listener/told"
	"github.com/ballastlb/ballast/ratelimit"
)

// request is one request on its way to a backend, and its answer on the way back.
type request struct {
	front.Lean
	exchange exchange.Exchange
	record   exchange.Record
	conn     *conn
	site     *Site

	asker
	limits  ratelimit.Admission
	measure told.Measure
	line    told.Line
	shown   observe.Request // in the line

	body    body
	content []byte        // the body, if it arrived with the head
	full    *http.Request // nil before it is needed
	edit    *edit         // nil without header operations

	measured, logged bool
	sent             bool // Run was called
	returned         bool // Run has returned, rather than panicked
	handed           bool // the connection was handed over, for the server's error routes
	refusal          *ratelimit.Refusal
	answer           sentAnswer
}

// requests is a pool: requests are large, and most end within a millisecond.
var requests = sync.Pool{New: func() any { return new(request) }}

// answerRequest answers the plain request whose head was read. It reports whether the connection is kept.
func (c *conn) answerRequest(site *Site) (keep bool) {
	x := requests.Get().(*request)
	x.conn, x.site = c, site
	c.start += len(c.head.Raw)
	x.begin()
	defer x.end(&keep)
	err := x.serve()
	x.returned = true
	if err != nil && site.Errors != nil {
		x.handFailed(err)
		return false
	}
	x.finish(err)
	return x.answer.complete && !x.answer.close
}

// begin prepares the request before its way begins.
func (x *request) begin() {
	c, site := x.conn, x.site
	x.identify()
	x.answer.close = c.head.Close || c.lane.draining.Load()
	if x.measured = site.Metrics != nil; x.measured {
		x.measure.Begin(site.meter(c.way.Routes), &c.head, c.client.TLS != nil, c.now)
	}
	x.logged = site.Log.Wants(c.head.Host.Of(c.head.Raw))
	x.takeBody()
	server := site.Server
	x.answer.bound = boundOf(server.WriteIdleTimeout, server.WriteTimeout, server.WriteMinRate, c.now, endOf(c.now, c.lane.WriteTimeout))
	if x.answer.piece = server.MaxWriteChunk; x.answer.piece <= 0 {
		x.answer.piece = caddyhttp.DefaultMaxWriteChunk
	}
}

// maxWhole is the largest body in bytes that is sent with the head, if it has arrived.
const maxWhole = 16 << 10

// takeBody prepares the request's body.
func (x *request) takeBody() {
	c := x.conn
	length := c.head.Length
	if length == 0 {
		return
	}
	if length <= maxWhole && c.arrive(int(length)) {
		x.content = c.buf[c.start : c.start+int(length)]
		c.start += int(length)
		return
	}
	server := x.site.Server
	x.body.conn, x.body.left, x.body.err, x.body.read, x.body.ending = c, length, nil, 0, false
	x.body.bound = boundOf(server.ReadIdleTimeout, server.ReadTimeout, server.ReadMinRate, c.now, endOf(c.since, c.lane.ReadTimeout))
}

// comes reports whether the body must be read from the connection.
func (x *request) comes() bool { return x.conn.head.Length > 0 && x.content == nil }

// serve sends the request on its way. The error is the one that a chain of Caddy's handlers would return.
func (x *request) serve() error {
	c := x.conn
	x.beginEdit()
	for i, limit := range c.way.Limits {
		x.editUpTo(i)
		if refusal := limit.Admit(x.address, &x.limits); refusal != nil {
			x.refusal = refusal
			if x.edit == nil {
				x.answer.header = make(http.Header)
			}
			refusal.SetHeader(x.answer.header)
			return refusal.Err
		}
	}
	x.editUpTo(len(c.way.Limits))
	if x.edit != nil {
		x.edit.prepare(x)
	}
	return x.balance()
}

// balance does the work of the load balancer's handler.
func (x *request) balance() (err error) {
	c := x.conn
	plan, service := c.way.Plan, c.way.Service
	base := c.base
	ctx := c.ctx
	var cancel context.CancelCauseFunc
	if service.DrainTimeout() > 0 {
		ctx, cancel = context.WithCancelCause(ctx)
		defer cancel(nil)
		base = base.WithContext(ctx)
	}
	base.Method, base.Body, base.ContentLength, base.Header = c.head.Method, nil, 0, nil
	if x.comes() {
		base.Body, base.ContentLength = &x.body, c.head.Length
	}
	keyed := x.takeKeys(base)
	x.Begin(c.way.Front, x, x.who, base, x.path(), keyed)
	if x.content != nil && !x.Idempotent() {
		x.DropKeys()
	}
	x.exchange.Init(plan, x, x, &x.record)
	// Deferred, because the request must be counted even after a panic.
	defer func() {
		x.exchange.Live.Done()
		x.Lean.End()
		plan.Pool.CountAnswer(statusOf(err, x.record.Passed()))
	}()
	if !plan.Rules.Retry.Waits() {
		if hopeless := service.Refuses(plan.Rules.Hold); hopeless != nil {
			x.exchange.Refuse(hopeless)
			return x.unavailable(hopeless)
		}
	}
	plan.Pool.Live.Add(&x.exchange.Live, cancel, c.now)
	x.sent = true
	c.lane.watcher.begin(c)
	defer c.lane.watcher.end(c)
	if err = x.exchange.Run(ctx, c.now); err == nil || x.Lean.Body().Failure() != nil {
		return err
	}
	switch left, unavailable := x.exchange.Unserved(); {
	case left:
		return caddyhttp.Error(pool.StatusCanceled, context.Canceled)
	case unavailable != nil:
		return x.unavailable(unavailable)
	default:
		return err
	}
}

// unavailable returns the error for a request that no backend could serve, and counts it.
func (x *request) unavailable(err error) error {
	x.conn.way.Plan.Pool.CountRefusal(course.RefusalOf(err))
	if x.edit == nil {
		x.answer.header = make(http.Header)
	}
	x.answer.header.Set("Retry-After", x.conn.way.Service.RetryAfter(time.Now()))
	return caddyhttp.Error(http.StatusServiceUnavailable, err)
}

// path returns the unescaped path as the load balancer gets it.
func (x *request) path() []byte {
	c := x.conn
	path := c.head.Path.Of(c.head.Raw)[c.way.Strip:]
	if c.head.Plain {
		return path
	}
	unescaped, err := url.PathUnescape(string(path))
	if err != nil {
		return path // the path has no escapes, as its escapes are known to be valid
	}
	return []byte(unescaped)
}

// takeKeys copies into r the fields that exchanges and transports use.
func (x *request) takeKeys(r *http.Request) (keyed bool) {
	h := &x.conn.head
	for _, f := range h.Fields {
		switch name := f.Name.Of(h.Raw); string(name) {
		case "Idempotency-Key", "X-Idempotency-Key":
			if r.Header == nil {
				r.Header = make(http.Header, 1)
			}
			r.Header.Add(string(name), string(f.Value.Of(h.Raw)))
		}
	}
	return r.Header.Get("Idempotency-Key") != ""
}

// statusOf returns the status of the answer to the client. err is the load balancer's error, and passed the status of the answer that was
// passed on.
func statusOf(err error, passed int) int {
	switch {
	case err == nil && passed == 0:
		return pool.StatusCanceled
	case err == nil:
		return passed
	}
	if handler, ok := errors.AsType[caddyhttp.HandlerError](err); ok && handler.StatusCode != 0 {
		return handler.StatusCode
	}
	return http.StatusInternalServerError
}

// finish answers a request that ended with an error, and records the request in log and metrics.
func (x *request) finish(err error) {
	if err != nil {
		if x.measured {
			x.recordMetrics(err)
		}
		x.refuse(statusOf(err, 0))
		x.logError(err)
	} else {
		if !x.answer.begun {
			x.answer.status, x.answer.close = pool.StatusCanceled, true // the client has closed the connection
			if x.edit != nil {
				x.edit.applyDeferred(pool.StatusCanceled, x.answer.header)
			}
		}
		if x.measured {
			x.recordMetrics(nil)
		}
	}
	x.log()
}

func (x *request) recordMetrics(err error) {
	x.measured = false
	if err == nil && x.answer.begun && !x.answer.complete {
		x.measure.Break()
		return
	}
	size := told.Size(&x.conn.head) - x.conn.way.Strip
	if x.edit != nil {
		size += x.edit.grown
	}
	x.measure.End(err, size, x.answer.size, time.Now())
}

// end ends the request. After a panic, the connection is not kept.
func (x *request) end(keep *bool) {
	x.limits.Release()
	if x.measured {
		x.measure.Break()
	}
	if x.handed {
		return
	}
	comes := x.comes()
	if comes {
		if *keep = *keep && x.body.finish(); !*keep {
			x.body.end()
		}
	}
	if !*keep && comes && x.answer.begun {
		x.conn.linger()
	}
	x.conn.dropGrown()
	if !x.returned || comes || !x.exchange.Settled() || !x.Lean.Settled() || x.conn.way.Service.Quiet() {
		return
	}
	x.Lean.Clear()
	x.exchange, x.record, x.site, x.conn = exchange.Exchange{}, exchange.Record{}, nil, nil
	x.line, x.asker = told.Line{}, asker{}
	x.content, x.full, x.edit, x.sent, x.returned, x.refusal = nil, nil, nil, false, false, nil
	x.answer.reset()
	requests.Put(x)
}

// describe describes the request for the log.
func (x *request) describe() *told.Line {
	c := x.conn
	l := &x.line
	l.Client, l.Head, l.ClientIP, l.Took = c.client, &c.head, x.ip, time.Since(c.now)
	return l
}

// logError logs the error with which the request ended.
func (x *request) logError(err error) { x.site.Log.Failed(x.describe(), err) }

// log writes the access log.
func (x *request) log() {
	if !x.logged {
		return
	}
	l := x.describe()
	l.Status, l.Size, l.WriteErr = x.answer.status, x.answer.size, nil
	l.Header = x.answer.header
	if !x.answer.complete {
		l.Took = 0 // as in Caddy, which does not set it after a panic
	}
	if bound := time.Duration(x.site.Server.WriteTimeout); bound > 0 && l.Took >= bound {
		l.WriteErr = x.answer.failed
	}
	if l.Read = int(x.contentRead()); x.comes() {
		x.body.mu.Lock()
		l.Read = int(x.body.read)
		x.body.mu.Unlock()
	}
	if o, ok := x.conn.way.Plan.Observer.(*observe.Observer); ok && x.refusal == nil {
		x.shown.Observe(o, &x.record)
		l.Extra = x.shown.Field()
	}
	x.site.Log.Write(l)
}

// Full implements [front.Client].
func (x *request) Full() *http.Request {
	if x.full == nil {
		c := x.conn
		full, err := c.client.Request(&c.head, x.site.Server, c.now, nil)
		if err != nil {
			// The parser of heads accepts only targets that net/url accepts.
			full = caddyhttp.PrepareRequest(&http.Request{URL: new(url.URL), Header: make(http.Header)}, caddy.NewReplacer(), nil, x.site.Server)
		}
		if n := c.way.Strip; n > 0 {
			// A path that is stripped has no escapes, so the raw one has the same length.
			full.URL.Path = full.URL.Path[n:]
			full.URL.RawPath = full.URL.RawPath[min(n, len(full.URL.RawPath)):]
			full.RequestURI = full.URL.RequestURI()
		}
		if x.edit != nil {
			for _, done := range c.way.Edits[:x.edit.passed] {
				if done.Request != nil {
					done.Request.ApplyToRequest(full)
				}
			}
		}
		x.full = full
	}
	return x.full
}

// Members implements [course.Source].
func (x *request) Members(retry bool) (course.Members, error) {
	set, err := x.conn.way.Service.Members(x.conn.base, retry) // a source that the lane may ask needs the context only
	if err != nil {
		return nil, err
	}
	return set, nil
}

// Quiet implements [course.Source].
func (x *request) Quiet() bool { return x.conn.way.Service.Quiet() }

// Body implements [exchange.Front].
func (x *request) Body() exchange.ClientBody {
	if body := x.Lean.Body(); body != nil {
		return body
	}
	return nil
}

// Attempt implements [exchange.Front].
func (x *request) Attempt(_ context.Context, n int, to course.Target, inform exchange.Inform) (exchange.Outgoing, error) {
	r, trip, err := x.Lean.Attempt(n, to, x.headFor(to), inform)
	if err != nil {
		return exchange.Outgoing{}, err
	}
	return exchange.Outgoing{Request: r, Back: trip, Inline: len(x.content)}, nil
}

// Ended implements [exchange.Front].
func (x *request) Ended(_ *http.Response, err error, _, _ time.Time) { x.Lean.Ended(err) }

// Retrying implements [exchange.Front].
func (*request) Retrying(error) {}

// Copy implements [exchange.Front]. It is not called, because a load balancer that hedges is not on the lane.
func (*request) Copy(context.Context, *http.Request, course.Target) (o exchange.Outgoing, ok bool) {
	return o, false
}

// CopyWon implements [exchange.Front].
func (*request) CopyWon(course.Target) {}

// Refuse implements [exchange.Front].
func (x *request) Refuse(err error) error { return x.Fail(err) }

// Answer implements [exchange.Front].
func (x *request) Answer(res *http.Response) error {
	x.pass(res)
	return nil
}

// AppendHead implements [front.Head]: it appends the request as Caddy would send it.
func (x *request) AppendHead(b []byte, askGzip bool) []byte {
	c := x.conn
	h := &c.head
	raw := h.Raw
	host := h.Host.Of(raw)
	b = x.appendRequestLine(b)
	b = append(b, host...)
	b = x.appendLength(b)
	agents := 0
	for _, f := range h.Fields {
		name := f.Name.Of(raw)
		if isReplaced(name) {
			continue
		}
		if string(name) == "User-Agent" { // net/http's transport sends one User-Agent field, and none if it is empty
			if agents++; agents > 1 || f.Value.End == f.Value.Start {
				continue
			}
		}
		b = appendField(b, name, f.Value.Of(raw))
	}
	b = append(b, "Via: 1.1 Caddy\r\n"...)
	b = x.appendForwarded(b, host)
	if askGzip {
		b = append(b, "Accept-Encoding: gzip\r\n"...)
	}
	b = append(b, "\r\n"...)
	return append(b, x.content...)
}

// appendRequestLine appends the request line and the name of Host.
func (x *request) appendRequestLine(b []byte) []byte {
	h := &x.conn.head
	b = append(b, h.Method...)
	b = append(b, ' ')
	b = append(b, h.Raw[h.Target.Start+x.conn.way.Strip:h.Target.End]...)
	return append(b, " HTTP/1.1\r\nHost: "...)
}

// appendLength ends the previous line, and appends Content-Length if the request has one.
func (x *request) appendLength(b []byte) []byte {
	h := &x.conn.head
	if n := h.Length; n > 0 || h.Method == http.MethodPost || h.Method == http.MethodPut || h.Method == http.MethodPatch {
		b = append(b, "\r\nContent-Length: "...)
		b = strconv.AppendInt(b, n, 10)
	}
	return append(b, "\r\n"...)
}

func appendField[T []byte | string](b []byte, name, value T) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}

// isReplaced reports whether a request's field of that name is not passed on as it is, because AppendHead writes it elsewhere.
func isReplaced(name []byte) bool {
	switch string(name) {
	case "Host", "Content-Length", "Connection", forwardedFor, forwardedProto, forwardedHost:
		return true
	}
	return false
}

// MayAskGzip implements [front.Head].
func (x *request) MayAskGzip() bool {
	h := &x.conn.head
	if h.Method == http.MethodHead {
		return false
	}
	for _, f := range h.Fields {
		switch string(f.Name.Of(h.Raw)) {
		case "Accept-Encoding", "Range":
			if f.Value.End > f.Value.Start {
				return false
			}
		}
	}
	return true
}
