package lane

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/exchange"
	"github.com/ballastlb/ballast/lbmodule/front"
	"github.com/ballastlb/ballast/lbmodule/observe"
	"github.com/ballastlb/ballast/listener/h1"
	"github.com/ballastlb/ballast/listener/told"
	"github.com/ballastlb/ballast/ratelimit"
)

// Failed is a request that ended with an error before it was answered, in a server that has error routes. Error routes may contain any
// handler, so the connection is handed over to a server that knows all of HTTP, which reads the request again. ServeHTTP does what Caddy's
// server does after its routes have returned the error. The request does not pass through the main routes a second time, so it is not
// counted twice.
type Failed struct {
	site   *Site
	err    error
	header http.Header // the answer's fields that were set before the error
	edit   *edit       // nil without header operations
	asked  http.Header // the request's fields after the operations, with host; nil if they have changed nothing
	host   string

	begun  time.Time
	line   told.Line
	head   h1.Head
	logged bool
	read   int64 // bytes of the body that were read

	length int64             // of the body
	gone   *front.ClientBody // the body, if its bytes cannot be read again; nil otherwise
	broken bool              // the body ended early

	// For placeholders and the log: the rate limit that refused the request, and the load balancer; nil if the request has met none.
	refusal *ratelimit.Refusal
	shown   *observe.Request
	of      *observe.Observer
	record  *exchange.Record
	others  *front.Told
}

// HasErrorRoutes reports whether the server has routes for errors.
func HasErrorRoutes(server *caddyhttp.Server) bool {
	return server.Errors != nil && len(server.Errors.Routes) > 0
}

// ErrorRoutes returns the server's error routes as a handler, for [Site.Errors]; nil if it has none.
func ErrorRoutes(server *caddyhttp.Server) caddyhttp.Handler {
	if !HasErrorRoutes(server) {
		return nil
	}
	// The last handler is Caddy's for errors that no route handles.
	return server.Errors.Routes.Compile(caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		err, _ := r.Context().Value(caddyhttp.ErrorCtxKey).(error)
		w.WriteHeader(ownStatus(err))
		return nil
	}))
}

// ownStatus returns the status of an error that a handler has returned. Unlike [statusOf], it does not unwrap errors: Caddy does not either
// when its error routes have failed.
func ownStatus(err error) int {
	if handler, ok := err.(caddyhttp.HandlerError); ok { //nolint:errorlint // as Caddy
		return handler.StatusCode
	}
	return http.StatusInternalServerError
}

// handFailed hands the connection over, so that the error routes answer the request, which ended with err.
func (x *request) handFailed(err error) {
	c := x.conn
	if x.measured {
		x.recordMetrics(err)
	}
	f := &Failed{
		site: x.site, err: err, header: x.answer.header, begun: c.now, logged: x.logged, length: c.head.Length, refusal: x.refusal,
	}
	if f.edit = x.edit; f.edit != nil {
		f.asked, f.host = f.edit.again(x)
	}
	x.tell(f)
	r := &Replayed{failed: f}
	r.again, r.left, r.broken = x.again(f)
	c.credit-- // takes back the credit that the request has added
	r.left = c.handsOver(r.left)
	f.head = c.head
	f.head.Raw, f.head.Fields = slices.Clone(c.head.Raw), slices.Clone(c.head.Fields)
	f.line = told.Line{Client: c.client, Head: &f.head, ClientIP: x.ip, Took: time.Since(c.now)}
	x.limits.Release() // the handlers that hold the grants have returned
	x.handed = true
	c.leave(c.replay(r), false)
}

// tell records in f what the log and placeholders need of the load balancer.
func (x *request) tell(f *Failed) {
	o, ok := x.conn.way.Plan.Observer.(*observe.Observer)
	if !ok || x.refusal != nil {
		return
	}
	f.of, f.shown, f.record = o, &x.shown, &x.record
	if !x.sent {
		f.others = new(front.Told)
		return
	}
	f.others = x.Lean.Told(x.conn.now, x.exchange.Ended())
	for _, a := range slices.Backward(x.record.Trail()) {
		if a.Status != 0 {
			f.others.Dropped(a.Status, a.Start, a.Took)
			return
		}
	}
}

// again returns the bytes that the other server reads before the rest of the connection: the request as far as it was read, and the bytes
// after it. size is the size of the request. If the body's bytes that were read are lost, the head declares only the length of the rest,
// and f has the actual length. broken is the connection's error that follows the bytes, if any.
func (x *request) again(f *Failed) (again []byte, size int64, broken error) {
	c := x.conn
	head, behind := c.head.Raw, c.buf[c.start:c.end]
	if !x.comes() {
		f.read = x.contentRead()
		again = slices.Concat(head, x.content)
		return append(again, behind...), int64(len(again)), nil
	}
	body := x.Lean.Body()
	failed := body.Failure() != nil // before end interrupts a reader
	x.body.end()
	behind = c.buf[c.start:c.end] // a read may have changed it meanwhile
	f.read = x.body.read
	if failed {
		f.gone, f.broken, broken = body, true, x.body.err
		if errors.Is(broken, io.ErrUnexpectedEOF) {
			broken = io.EOF
		}
		return slices.Concat(withLength(&c.head, x.body.left), behind), unknown, broken
	}
	var kept []byte
	if body != nil { // it is nil if no load balancer has had the request
		var ok bool
		if kept, ok = body.Again(f.read); !ok {
			f.gone, head, kept = body, withLength(&c.head, x.body.left), nil
		}
	}
	again = slices.Concat(head, kept)
	return append(again, behind...), int64(len(again)) + x.body.left, nil
}

// contentRead returns how many bytes Caddy would have read by now of a body that arrived with the head: a load balancer reads it with its
// first attempt.
func (x *request) contentRead() int64 {
	if len(x.record.Trail()) == 0 {
		return 0
	}
	return int64(len(x.content))
}

// withLength returns the head with another length of the body.
func withLength(h *h1.Head, length int64) []byte {
	for _, f := range h.Fields {
		if string(f.Name.Of(h.Raw)) == contentLength {
			return slices.Concat(h.Raw[:f.Value.Start], strconv.AppendInt(nil, length, 10), h.Raw[f.Value.End:])
		}
	}
	return h.Raw
}

const contentLength = "Content-Length"

// ServeHTTP answers the request. It must be r's first handler.
func (f *Failed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w, r, done := guard(w, r, f.site, f.begun)
	defer done()
	h := w.Header()
	if f.edit == nil { // otherwise f.header has them, unless an operation has deleted them
		f.setOwn(h)
	}
	if f.gone != nil {
		r.ContentLength = f.length
		r.Header[contentLength] = []string{strconv.FormatInt(f.length, 10)}
		if f.broken {
			_, _ = r.Body.Read(make([]byte, 1)) // so that net/http sees the error, too
		}
	}
	if f.asked != nil {
		r.Header, r.Host = f.asked, f.host
	}
	repl := caddy.NewReplacer()
	r = caddyhttp.PrepareRequest(r, repl, w, f.site.Server)
	caddyhttp.SetVar(r.Context(), "start_time", f.begun) // PrepareRequest takes the current time
	if f.logged {
		recorder := caddyhttp.NewResponseRecorder(w, nil, nil)
		counted := &countedBody{ReadCloser: r.Body}
		w, r.Body = recorder, counted
		defer func() { f.log(recorder, r, counted.n) }()
	}
	if f.gone != nil {
		r.Body = f.gone
	}
	maps.Copy(h, f.header)
	if f.refusal != nil {
		f.refusal.SetPlaceholders(repl)
	}
	if f.shown != nil {
		f.shown.Show(f.of, f.record, f.others, w, r)
	}
	if err := f.site.Errors.ServeHTTP(w, f.site.Server.Errors.WithError(r, f.err)); err != nil {
		f.site.Log.FailedAgain(&f.line, f.err, err)
		w.WriteHeader(ownStatus(f.err))
		return
	}
	f.site.Log.Handled(&f.line, f.err)
}

// setOwn sets the fields that Caddy's server sets in each answer.
func (f *Failed) setOwn(h http.Header) {
	h["Server"] = []string{"Caddy"}
	if f.site.AltSvc != nil {
		if value := f.site.AltSvc(); value != "" {
			h["Alt-Svc"] = []string{value}
		}
	}
}

// log writes the access log. r is the request as the error routes have got it, which have read n bytes of its body.
func (f *Failed) log(recorder caddyhttp.ResponseRecorder, r *http.Request, n int64) {
	f.line.Status, f.line.Size, f.line.Header = recorder.Status(), recorder.Size(), recorder.Header()
	f.line.Read = int(max(f.read, n))
	f.site.Log.WriteOf(&f.line, r)
}

// countedBody counts the bytes that are read.
type countedBody struct {
	io.ReadCloser
	n int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	return n, err
}
