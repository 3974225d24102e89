package front

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

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
