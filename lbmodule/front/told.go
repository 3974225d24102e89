package front

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// placeholderPrefix is what reverse_proxy's placeholders begin with.
const placeholderPrefix = "http.reverse_proxy."

// Placeholder returns what reverse_proxy's placeholder of that name stands for. reverse_proxy sets all of them for each request; here who
// asks for one pays for it. ok is false of what is not known yet. What a reverse_proxy that handles the same request sets counts more, so
// what one has set before is deleted when its time is over.
func (x *Request) Placeholder(name string) (value any, ok bool) {
	name, ours := strings.CutPrefix(name, placeholderPrefix)
	if !ours || x.front == nil || x.hidden {
		return nil, false
	}
	if about, ok := strings.CutPrefix(name, "upstream."); ok {
		return x.upstreamPlaceholder(about)
	}
	if field, ok := strings.CutPrefix(name, "header."); ok {
		if x.res == nil {
			return nil, false
		}
		values, ok := x.res.Header[field]
		return strings.Join(values, ","), ok
	}
	switch name {
	case "status_code":
		if x.res != nil {
			return x.status, true
		}
	case "status_text":
		if x.res != nil {
			return x.res.Status, true
		}
	case "duration":
		return x.since(x.began, x.ended)
	case "duration_ms":
		return inMilliseconds(x.since(x.began, x.ended))
	case "retries":
		if !x.ended.IsZero() {
			return x.retries, true
		}
	}
	return nil, false
}

func (x *Request) upstreamPlaceholder(name string) (any, bool) {
	if x.target == nil {
		return nil, false
	}
	switch name {
	case "address":
		return x.target.Dial.String(), true
	case "hostport":
		return x.target.Dial.Address, true
	case "host":
		return x.target.Dial.Host, true
	case "port":
		return x.target.Dial.Port, true
	case "requests":
		return x.requests, true
	case "max_requests":
		return x.target.Upstream.MaxRequests, true
	case "fails":
		return x.fails, true
	case "latency":
		return x.took, x.res != nil
	case "latency_ms":
		return inMilliseconds(x.took, x.res != nil)
	case "duration":
		return x.since(x.started, x.copied)
	case "duration_ms":
		return inMilliseconds(x.since(x.started, x.copied))
	}
	return nil, false
}

// since is how long something took; ok is false if it has not ended.
func (x *Request) since(start, end time.Time) (d time.Duration, ok bool) {
	return end.Sub(start), !end.IsZero()
}

func inMilliseconds(d time.Duration, ok bool) (any, bool) { return d.Seconds() * 1e3, ok }

// forgetTotals deletes what a reverse_proxy sets when it has ended.
func (x *Request) forgetTotals() {
	for _, name := range []string{"duration", "duration_ms", "retries"} {
		x.repl.Delete(placeholderPrefix + name)
	}
}

// The log lines are reverse_proxy's. Nothing is made for one that nobody reads.

// roundTripFields are what lines about an attempt tell of it.
func (x *Request) roundTripFields(took time.Duration) []zap.Field {
	return []zap.Field{
		zap.String("upstream", x.target.Upstream.String()),
		zap.Duration("duration", took),
		zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: x.sent, ShouldLogCredentials: x.logsCredentials()}),
	}
}

func (x *Request) logsCredentials() bool {
	server, ok := x.original.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	return ok && server.Logs != nil && server.Logs.ShouldLogCredentials
}

// logRoundTrip tells how an attempt ended.
func (x *Request) logRoundTrip(res *http.Response, err error, took time.Duration) {
	c := x.front.logger.Check(zapcore.DebugLevel, "upstream roundtrip")
	switch {
	case c == nil:
	case err != nil:
		c.Write(append(x.roundTripFields(took), zap.Error(err))...)
	default:
		c.Write(append(x.roundTripFields(took),
			zap.Object("headers", caddyhttp.LoggableHTTPHeader{Header: res.Header, ShouldLogCredentials: x.logsCredentials()}),
			zap.Int("status", res.StatusCode))...)
	}
}

// verbose tells of a step if verbose_logs is set.
func (x *Request) verbose(message string, fields ...zap.Field) {
	if !x.front.stock.VerboseLogs {
		return
	}
	if c := x.front.logger.Check(zapcore.DebugLevel, message); c != nil {
		c.Write(append(x.roundTripFields(x.took), fields...)...)
	}
}

// Retrying tells that there is to be another attempt, because of err.
func (x *Request) Retrying(err error) {
	x.retries++
	if !x.front.stock.VerboseLogs {
		return
	}
	if c := x.front.logger.Check(zapcore.DebugLevel, "retrying"); c != nil {
		c.Write(zap.Error(err), zap.Duration("after", 0))
	}
}

// logRead tells what was read of an answer's body.
func (x *Request) logRead(n int, err error) {
	x.verbose("read from upstream", zap.Int("read", n), zap.Error(err))
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, context.Canceled) {
		x.front.logger.Error("reading from backend", append(x.roundTripFields(x.took), zap.Int("read", n), zap.Error(err))...)
	}
}
