package front

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// placeholderPrefix is the prefix of reverse_proxy's placeholders.
const placeholderPrefix = "http.reverse_proxy."

// Placeholder returns the value of reverse_proxy's placeholder of that name; ok is false if it is not known yet. reverse_proxy sets all
// placeholders on every request; here a value is computed only on demand. Values that another reverse_proxy sets on the same request take
// precedence, so they are deleted once they no longer apply.
func (t *Told) Placeholder(name string) (value any, ok bool) {
	name, ours := strings.CutPrefix(name, placeholderPrefix)
	if !ours || t.front == nil || t.hidden {
		return nil, false
	}
	if about, ok := strings.CutPrefix(name, "upstream."); ok {
		return t.upstreamPlaceholder(about)
	}
	if field, ok := strings.CutPrefix(name, "header."); ok {
		values, ok := t.fields[field]
		return strings.Join(values, ","), ok
	}
	switch name {
	case "status_code":
		if t.status != 0 {
			return t.status, true
		}
	case "status_text":
		if t.status != 0 {
			return t.statusText, true
		}
	case "duration":
		return since(t.began, t.ended)
	case "duration_ms":
		return inMilliseconds(since(t.began, t.ended))
	case "retries":
		if !t.ended.IsZero() {
			return t.retries, true
		}
	}
	return nil, false
}

func (t *Told) upstreamPlaceholder(name string) (any, bool) {
	if t.target == nil {
		return nil, false
	}
	switch name {
	case "address":
		return t.target.Dial().String(), true
	case "hostport":
		return t.target.Dial().Address, true
	case "host":
		return t.target.Dial().Host, true
	case "port":
		return t.target.Dial().Port, true
	case "requests":
		return t.requests, true
	case "max_requests":
		return t.target.Upstream.MaxRequests, true
	case "fails":
		return t.fails, true
	case "latency":
		return t.took, t.status != 0
	case "latency_ms":
		return inMilliseconds(t.took, t.status != 0)
	case "duration":
		return since(t.started, t.copied)
	case "duration_ms":
		return inMilliseconds(since(t.started, t.copied))
	}
	return nil, false
}

// since returns the time from start to end; ok is false if end is zero.
func since(start, end time.Time) (d time.Duration, ok bool) {
	return end.Sub(start), !end.IsZero()
}

func inMilliseconds(d time.Duration, ok bool) (any, bool) { return d.Seconds() * 1e3, ok }

// forgetTotals deletes the placeholders that a reverse_proxy sets at its end.
func (q *Request) forgetTotals() {
	for _, name := range []string{"duration", "duration_ms", "retries"} {
		q.repl.Delete(placeholderPrefix + name)
	}
}

// The log lines are reverse_proxy's. Fields are built only if the line is logged.

// roundTripFields returns the fields of log lines about an attempt.
func (q *Request) roundTripFields(took time.Duration) []zap.Field {
	return []zap.Field{
		zap.String("upstream", q.target.Upstream.String()),
		zap.Duration("duration", took),
		zap.Object("request", q.loggable()),
	}
}

// loggable returns the request to the backend for logs. It redacts the fields that the config fills from the environment or from files,
// because such values are secrets that only the backend may see.
func (q *Request) loggable() caddyhttp.LoggableHTTPRequest {
	l := caddyhttp.LoggableHTTPRequest{Request: q.sent, ShouldLogCredentials: q.logsCredentials()}
	if l.ShouldLogCredentials || len(q.front.secrets) == 0 {
		return l
	}
	r := *q.sent
	r.Header = maps.Clone(r.Header)
	all := slices.Contains(q.front.secrets, anyField)
	for name := range r.Header {
		if all || slices.Contains(q.front.secrets, name) {
			r.Header[name] = redacted
		}
	}
	l.Request = &r
	return l
}

// redacted is logged in place of a secret.
var redacted = []string{"REDACTED"}

// anyField stands for all header fields.
const anyField = "*"

// secretFields returns the header fields to which ops adds values from the environment or from files; [anyField] if their names are not
// constant.
func secretFields(ops *headers.HeaderOps) (names []string) {
	if ops == nil {
		return nil
	}
	look := func(name, value string) {
		switch {
		case !strings.Contains(value, "{env.") && !strings.Contains(value, "{file."):
		case strings.ContainsAny(name, "*{"):
			names = append(names, anyField)
		default:
			names = append(names, http.CanonicalHeaderKey(name))
		}
	}
	for _, values := range []http.Header{ops.Add, ops.Set} {
		for name, all := range values {
			look(name, strings.Join(all, ""))
		}
	}
	for name, all := range ops.Replace {
		for _, one := range all {
			look(name, one.Replace)
		}
	}
	return names
}

func (q *Request) logsCredentials() bool {
	server, ok := q.original.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	return ok && server.Logs != nil && server.Logs.ShouldLogCredentials
}

// logRoundTrip logs how an attempt ended.
func (q *Request) logRoundTrip(res *http.Response, err error, took time.Duration) {
	c := q.front.logger.Check(zapcore.DebugLevel, "upstream roundtrip")
	switch {
	case c == nil:
	case err != nil:
		c.Write(append(q.roundTripFields(took), zap.Error(err))...)
	default:
		c.Write(append(q.roundTripFields(took),
			zap.Object("headers", caddyhttp.LoggableHTTPHeader{Header: res.Header, ShouldLogCredentials: q.logsCredentials()}),
			zap.Int("status", res.StatusCode))...)
	}
}

// verbose logs a step if verbose_logs is set.
func (q *Request) verbose(message string, fields ...zap.Field) {
	if !q.front.stock.VerboseLogs {
		return
	}
	if c := q.front.logger.Check(zapcore.DebugLevel, message); c != nil {
		c.Write(append(q.roundTripFields(q.took), fields...)...)
	}
}

// Retrying is called before another attempt; err is the error of the last one.
func (q *Request) Retrying(err error) {
	q.retries++
	if !q.front.stock.VerboseLogs {
		return
	}
	if c := q.front.logger.Check(zapcore.DebugLevel, "retrying"); c != nil {
		c.Write(zap.Error(err), zap.Duration("after", 0))
	}
}

// logRead logs a read of an answer's body.
func (q *Request) logRead(n int, err error) {
	q.verbose("read from upstream", zap.Int("read", n), zap.Error(err))
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, context.Canceled) {
		q.front.logger.Error("reading from backend", append(q.roundTripFields(q.took), zap.Int("read", n), zap.Error(err))...)
	}
}
