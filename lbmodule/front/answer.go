package front

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/quic-go/http3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/stock"
)

// StatusCanceled is what reverse_proxy answers to a client that has left.
const StatusCanceled = 499

// Fail returns the error with which the client is answered when there is no answer because of err; nil if it has left.
func (x *Request) Fail(err error) error {
	if refusal := x.received.Refusal(x.original.Context()); refusal != nil {
		err = refusal // the client broke its body off, whatever the backend made of that
	}
	if errors.Is(err, context.Canceled) {
		x.w.WriteHeader(StatusCanceled) // so that the access log has it
		return nil
	}
	return statusError(err)
}

// statusError gives an error a status: 504 for one that says of itself that a time was up, 502 for others.
func statusError(err error) error {
	status := http.StatusBadGateway
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() { //nolint:errorlint // of one that wraps a timeout reverse_proxy makes 502
		status = http.StatusGatewayTimeout
	}
	// Some errors of the net package wrap what is only called like that (caddyserver/caddy#3748).
	if errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "operation was canceled") {
		status = StatusCanceled
	}
	return caddyhttp.Error(status, err)
}

// Answer gives the client the answer of the last attempt. The error is one to return to the server.
func (x *Request) Answer(res *http.Response, next caddyhttp.Handler) error {
	x.watch(res)
	for i := range x.front.stock.Responses {
		rh := &x.front.stock.Responses[i]
		if rh.Match != nil && !rh.Match.Match(res.StatusCode, res.Header) {
			continue
		}
		if text := rh.StatusCode.String(); text != "" {
			status, err := strconv.Atoi(x.repl.ReplaceAll(text, ""))
			if err != nil {
				res.Body.Close()
				return statusError(caddyhttp.Error(http.StatusInternalServerError, err))
			}
			if status != 0 {
				res.StatusCode = status
			}
			break
		}
		if c := x.front.logger.Check(zapcore.DebugLevel, "handling response"); c != nil {
			c.Write(append(x.roundTripFields(x.took), zap.Int("handler", i))...)
		}
		return x.finish(res, next, func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
			return rh.Routes.Compile(next).ServeHTTP(w, r)
		})
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		return x.finish(res, next, func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
			return stock.CopyResponse(w, x.sent.WithContext(r.Context()), next)
		})
	}
	return x.pass(res)
}

// finish has reverse_proxy go on with the answer: proceed does what is to be done with it.
func (x *Request) finish(res *http.Response, next caddyhttp.Handler, proceed func(http.ResponseWriter, *http.Request, caddyhttp.Handler) error) error {
	x.release() // reverse_proxy counts the request from now on
	defer x.finished()
	body := res.Body
	if res.StatusCode == http.StatusSwitchingProtocols {
		res.Body = http.NoBody // reverse_proxy would buffer what comes through the tunnel
	}
	return x.front.stock.Finish(&untyped{caddyhttp.ResponseWriterWrapper{ResponseWriter: x.w}}, x.original, next, &stock.InHand{
		Upstream: x.target.Upstream, Response: res,
		Continue: func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
			// The header stays as reverse_proxy has told it: it changes now. Of the upstream it does not know enough.
			x.repl.DeleteByPrefix(placeholderPrefix + "upstream.")
			if res.StatusCode == http.StatusSwitchingProtocols {
				res.Body = body
			}
			return proceed(w, r, next)
		},
	})
}

// finished has the placeholders tell of this request again, after reverse_proxy has ended, unless another one has handled it since.
func (x *Request) finished() {
	x.forgetTotals()
	x.hidden = true
	_, another := x.repl.Get(placeholderPrefix + "upstream.address")
	_, copied := x.repl.Get(placeholderPrefix + "upstream.duration")
	if x.hidden = false; another {
		return
	}
	if copied {
		x.copied = time.Now()
	}
	x.repl.DeleteByPrefix(placeholderPrefix + "upstream.")
}

// untyped keeps the server from guessing what type an answer is of whose backend did not say, see [Request.pass].
type untyped struct {
	caddyhttp.ResponseWriterWrapper
}

// WriteHeader implements [http.ResponseWriter]. What is passed on has our Via; other answers are made by the routes of handle_response,
// and sniffed as ever.
func (w *untyped) WriteHeader(status int) {
	if h := w.Header(); status >= http.StatusOK && slices.ContainsFunc(h["Via"], isOurs) {
		leaveUntyped(h)
	}
	w.ResponseWriter.WriteHeader(status)
}

// isOurs reports whether an entry of Via is that of this proxy.
func isOurs(via string) bool { return strings.HasSuffix(via, " Caddy") }

// leaveUntyped keeps the server from guessing the type of an answer: absent stays absent (RFC 9110, 8.3), and a guess can make a page of
// what is text.
func leaveUntyped(h http.Header) {
	if _, known := h["Content-Type"]; !known {
		h["Content-Type"] = nil
	}
}

// pass passes an answer on.
func (x *Request) pass(res *http.Response) error {
	f := x.front
	incremental := isIncremental(res.Header)
	if f.stock.ResponseBuffers != 0 && !incremental {
		_, res.Body = readUpTo(res.Body, f.stock.ResponseBuffers)
	}
	header := x.w.Header()
	delete(header, "Server") // Via tells of us instead
	x.values[4] = answerVia(res)
	header["Via"] = appendValue(header["Via"], x.values[4:5:5])
	from, drops := res.Header, dropsOf(res.Header)
	if ops := f.stock.ResponseHeaders; ops != nil {
		from = from.Clone() // placeholders tell of the header as it came
		drops.strip(from)
		drops = keepsAll // what is done to the header may name any field
		if ops.Require == nil || ops.Require.Match(res.StatusCode, from) {
			ops.ApplyTo(from, x.repl)
		}
		incremental = incremental || isIncremental(from)
	}
	if f.stock.ResponseBuffers != 0 && incremental && answerHasContent(x.sent, res) {
		res.Body.Close()
		return statusError(x.refuseIncremental(from))
	}
	passHeader(header, from, drops)
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
	x.w.WriteHeader(res.StatusCode)
	x.verbose("wrote header")
	err := x.copyBody(res.Body, res.ContentLength, f.flushInterval(res, incremental))
	closing := res.Body.Close() // now, which is when the trailers are known
	if f.stock.VerboseLogs || closing != nil {
		if c := f.logger.Check(zapcore.DebugLevel, "closed response body from upstream"); c != nil {
			c.Write(append(x.roundTripFields(x.took), zap.Error(closing))...)
		}
	}
	if err != nil {
		x.abort(err)
	}
	x.passTrailers(res, announced)
	return nil
}

// answerVia is the entry of Via for an answer.
func answerVia(res *http.Response) string {
	entry := via(res.ProtoMajor, res.ProtoMinor)
	if len(res.Proto) >= 5 && strings.EqualFold(res.Proto[:5], "HTTP/") {
		return entry
	}
	return res.Proto[:strings.Index(res.Proto, "/")+1] + entry
}

// drops are the fields of an answer's header that end here.
type drops struct {
	all   bool     // that belong to a connection
	named []string // by Connection, beside them
}

// keepsAll is for a header that has none of them any more.
var keepsAll drops

// dropsOf returns what ends here of a header.
func dropsOf(h http.Header) drops {
	d := drops{all: true}
	for _, list := range h["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			name = http.CanonicalHeaderKey(textproto.TrimString(name))
			if _, there := h[name]; there && !isHopByHop(name) {
				d.named = append(d.named, name)
			}
		}
	}
	return d
}

func (d drops) has(name string) bool {
	return d.all && isHopByHop(name) || slices.Contains(d.named, name)
}

func (d drops) strip(h http.Header) {
	for name := range h {
		if d.has(name) {
			delete(h, name)
		}
	}
}

// passHeader adds the fields of an answer to those of the client's, but for those that end here.
func passHeader(to, from http.Header, d drops) {
	n := 0
	for _, values := range from {
		n += len(values)
	}
	all := make([]string, 0, n) // who changes values later changes none of the backend's
	for name, values := range from {
		if len(values) == 0 || d.has(name) {
			continue
		}
		if name = http.CanonicalHeaderKey(name); len(to[name]) > 0 {
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

// abort ends an answer that cannot be completed: the client has its beginning, and must see that there was more.
func (x *Request) abort(err error) {
	level := zapcore.WarnLevel
	if isCanceledHTTP3(err) {
		level = zapcore.DebugLevel // see caddyserver/caddy#5766
	}
	if c := x.front.logger.Check(level, "aborting with incomplete response"); c != nil {
		c.Write(append(x.roundTripFields(x.took), zap.Error(err))...)
	}
	_ = http.NewResponseController(x.w).Flush() // of what there is (caddyserver/caddy#7845)
	panic(http.ErrAbortHandler)
}

// isCanceledHTTP3 reports whether the client has given up an answer over HTTP/3. The same error of a backend is the backend's.
func isCanceledHTTP3(err error) bool {
	if !errors.Is(err, errWriting) {
		return false
	}
	h3, ok := errors.AsType[*http3.Error](err)
	return ok && h3.Remote && h3.ErrorCode == http3.ErrCodeRequestCanceled
}

// passTrailers passes on what came after the body.
func (x *Request) passTrailers(res *http.Response, announced int) {
	if len(res.Trailer) > 0 {
		// Otherwise the server gives a short answer a length, and it has no place for trailers then.
		_ = http.NewResponseController(x.w).Flush()
	}
	x.copied = time.Now()
	header := x.w.Header()
	if len(res.Trailer) == announced {
		copyHeader(header, res.Trailer)
		return
	}
	for name, values := range res.Trailer {
		for _, v := range values {
			header.Add(http.TrailerPrefix+name, v)
		}
	}
	x.verbose("response finalized")
}

// flushInterval is how soon what comes of an answer is sent on: 0 for when there is enough, negative for at once.
func (f *Front) flushInterval(res *http.Response, incremental bool) time.Duration {
	if incremental || res.ContentLength == -1 || isEvents(res.Header.Get("Content-Type")) {
		return -1
	}
	return f.stock.FlushInterval
}

// isEvents reports whether a type is that of server-sent events.
func isEvents(contentType string) bool {
	const events = "text/event-stream"
	if name, _, _ := strings.Cut(contentType, ";"); !strings.EqualFold(strings.TrimSpace(name), events) {
		return false
	}
	name, _, err := mime.ParseMediaType(contentType)
	return err == nil && name == events
}

// errWriting is what is wrapped when it is the client that could not be written to.
var errWriting = errors.New("writing")

// Sizes of the buffers that answers are copied by. A large answer takes fewer calls of the system with a larger one.
const (
	bufferSize = 32 << 10
	largeSize  = 64 << 10
)

var (
	buffers      = sync.Pool{New: func() any { return new(make([]byte, bufferSize)) }}
	largeBuffers = sync.Pool{New: func() any { return new(make([]byte, largeSize)) }}
)

// copyBody writes a body of that length, negative if it is not known, to the client. It flushes what has been written after that time, if
// it is not 0; negative is at once.
func (x *Request) copyBody(body io.Reader, length int64, flushAfter time.Duration) error {
	if body == http.NoBody && flushAfter == 0 {
		return nil
	}
	to := io.Writer(x.w)
	if flushAfter != 0 {
		flusher := &flushWriter{to: x.w, flush: http.NewResponseController(x.w).Flush, after: flushAfter, x: x}
		defer flusher.stop()
		flusher.start()
		to = flusher
	}
	pool := &buffers
	if length > bufferSize {
		pool = &largeBuffers
	}
	buffer := pool.Get().(*[]byte)
	defer pool.Put(buffer)
	for {
		n, err := body.Read(*buffer)
		if x.front.stock.VerboseLogs {
			x.logRead(n, err)
		}
		if n > 0 {
			written, failed := to.Write((*buffer)[:n])
			if x.front.stock.VerboseLogs {
				x.verbose("wrote to downstream", zap.Int("read", n), zap.Int("written", written), zap.Error(failed))
			}
			switch {
			case failed != nil:
				return fmt.Errorf("%w: %w", errWriting, failed)
			case written != n:
				return io.ErrShortWrite
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("reading: %w", err)
		}
	}
}

// flushWriter flushes what it has written to the client in time.
type flushWriter struct {
	to    io.Writer
	flush func() error
	after time.Duration // negative for at once
	x     *Request

	mu      sync.Mutex // guards what follows, and flush
	timer   *time.Timer
	pending bool
}

// start has the header be flushed in time, too: what follows may take longer.
func (f *flushWriter) start() {
	f.pending = true
	f.timer = time.AfterFunc(f.after, f.late)
}

// Write implements [io.Writer].
func (f *flushWriter) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.to.Write(p)
	switch {
	case f.after < 0:
		_ = f.flush()
	case !f.pending:
		f.pending = true
		f.timer.Reset(f.after)
	}
	return n, err
}

// late flushes when the time is up.
func (f *flushWriter) late() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pending { // or stop was called when this had begun
		_ = f.flush()
		f.pending = false
	}
}

func (f *flushWriter) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = false
	f.timer.Stop()
}
