package told

import (
	"errors"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/listener/h1"
)

// Log writes the access log and the error log of a Caddy server exactly as the server does: to the same loggers, with the same levels,
// messages and fields in the same order.
type Log struct {
	settings    *caddyhttp.ServerLogConfig // nil without access log
	access      *zap.Logger
	failures    *zap.Logger
	credentials bool

	all    *destination // for all hosts; nil if they differ
	mu     sync.Mutex   // held while byHost is replaced
	byHost atomic.Pointer[map[string]*destination]
}

// destination is the set of loggers for requests to a host.
type destination struct {
	wanted           bool // the access log has them
	access, failures []*zap.Logger
}

const (
	maxHosts      = 1024 // whose destinations are cached; clients choose the hosts
	maxHostLength = 255
)

// NewLog returns the log of server. app is the http app that it belongs to, ctx the context of any of the config's modules.
func NewLog(ctx caddy.Context, app *caddyhttp.App, server *caddyhttp.Server) *Log {
	logger := ctx.Logger(app).Named("log")
	l := &Log{settings: server.Logs, failures: logger.Named("error")}
	known := make(map[string]*destination)
	if settings := server.Logs; settings == nil {
		l.all = &destination{failures: []*zap.Logger{l.failures}}
	} else {
		l.access, l.credentials = logger.Named("access"), settings.ShouldLogCredentials
		if len(settings.LoggerNames) == 0 && len(settings.SkipHosts) == 0 {
			l.all = l.find("")
		}
		// Hosts with a logger of their own are found at once, whatever other hosts clients send.
		for host := range settings.LoggerNames {
			known[host] = l.find(host)
		}
	}
	l.byHost.Store(&known)
	return l
}

// Wants reports whether the access log has requests to host, with or without a port.
func (l *Log) Wants(host []byte) bool { return l.of(host).wanted }

// of returns the destination of requests to host.
func (l *Log) of(host []byte) *destination {
	if l.all != nil {
		return l.all
	}
	if d, ok := (*l.byHost.Load())[string(host)]; ok {
		return d
	}
	d := l.find(string(host))
	if len(host) > maxHostLength {
		return d
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if known := *l.byHost.Load(); len(known) < maxHosts+len(l.settings.LoggerNames) {
		known = maps.Clone(known)
		known[string(host)] = d
		l.byHost.Store(&known)
	}
	return d
}

// find determines the destination of requests to host.
func (l *Log) find(host string) *destination {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	d := &destination{wanted: l.wants(host)}
	for _, name := range l.names(host) {
		access, failures := l.access, l.failures
		if name != "" {
			access, failures = access.Named(name), failures.Named(name)
		}
		d.access, d.failures = append(d.access, access), append(d.failures, failures)
	}
	return d
}

func (l *Log) wants(host string) bool {
	for name := range l.settings.LoggerNames {
		if certmagic.MatchWildcard(host, name) {
			return true
		}
	}
	for _, skipped := range l.settings.SkipHosts {
		if certmagic.MatchWildcard(host, skipped) {
			return false
		}
	}
	return !l.settings.SkipUnmappedHosts
}

// names returns the names of the loggers of host.
func (l *Log) names(host string) []string {
	host = strings.ToLower(host) // as those in the settings
	if names, ok := l.settings.LoggerNames[host]; ok {
		return names
	}
	labels := strings.Split(host, ".")
	for i := range labels {
		if labels[i] == "" {
			continue
		}
		labels[i] = "*"
		if names, ok := l.settings.LoggerNames[strings.Join(labels, ".")]; ok {
			return names
		}
	}
	return []string{l.settings.DefaultLoggerName}
}

// Line is the data that is logged of a request. It may be reused.
type Line struct {
	Client   *Client
	Head     *h1.Head
	ClientIP string // the value of Caddy's variable
	Took     time.Duration

	// The rest is for the access log.
	Status   int
	Read     int // bytes of the request's body
	Size     int // of the answer's body
	Header   http.Header
	WriteErr error
	Extra    zap.Field // zero for none

	userID string
	extras []zap.Field

	log   *Log
	space [9]zapcore.Field
}

// Write writes line to the access log. The caller asks [Log.Wants] first.
func (l *Log) Write(line *Line) {
	l.write(line, l.of(line.Head.Host.Of(line.Head.Raw)).access, levelOf(line.Status), handled)
}

const handled = "handled request"

// levelOf returns the level of an answer with that status.
func levelOf(status int) zapcore.Level {
	if status >= http.StatusInternalServerError {
		return zapcore.ErrorLevel
	}
	return zapcore.InfoLevel
}

func (l *Log) write(line *Line, loggers []*zap.Logger, level zapcore.Level, message string) {
	var fields []zapcore.Field
	for _, logger := range loggers {
		entry := logger.Check(level, message)
		if entry == nil {
			continue
		}
		if fields == nil {
			fields = line.accessed(l)
		}
		entry.Write(fields...)
	}
}

// accessed returns the fields of the access log.
func (line *Line) accessed(l *Log) []zapcore.Field {
	line.log = l
	fields := append(line.space[:0],
		zap.Object("request", line),
		zap.Int("bytes_read", line.Read),
		zap.String("user_id", line.userID), // always "" on the lane itself
		zap.Duration("duration", line.Took),
		zap.Int("size", line.Size),
		zap.Int("status", line.Status),
		zap.Object("resp_headers", caddyhttp.LoggableHTTPHeader{Header: line.Header, ShouldLogCredentials: l.credentials}),
	)
	if line.WriteErr != nil {
		fields = append(fields, zap.NamedError("write_error", line.WriteErr))
	}
	if line.Extra.Type != zapcore.UnknownType {
		fields = append(fields, line.Extra)
	}
	return append(fields, line.extras...)
}

// Failed logs the error of a request for which the server has no error routes.
func (l *Log) Failed(line *Line, err error) {
	status, message, fields := explain(err)
	level := zapcore.DebugLevel
	if status >= http.StatusInternalServerError {
		level = zapcore.ErrorLevel
	}
	l.fail(line, level, message, fields)
}

// Handled logs the error of a request that the server's error routes have answered.
func (l *Log) Handled(line *Line, err error) {
	_, message, fields := explain(err)
	l.fail(line, zapcore.DebugLevel, message, fields)
}

// FailedAgain logs that the server's error routes, called for err, returned an error of their own.
func (l *Log) FailedAgain(line *Line, err, own error) {
	_, message, explained := explain(err)
	l.fail(line, zapcore.ErrorLevel, "error handling handler error", func(fields []zapcore.Field) []zapcore.Field {
		return explained(append(fields, zap.String("error", own.Error()), zap.Namespace("first_error"), zap.String("msg", message)))
	})
}

func (l *Log) fail(line *Line, level zapcore.Level, message string, appendTo func([]zapcore.Field) []zapcore.Field) {
	var fields []zapcore.Field
	for _, logger := range l.of(line.Head.Host.Of(line.Head.Raw)).failures {
		entry := logger.Check(level, message)
		if entry == nil {
			continue
		}
		if fields == nil {
			line.log = l
			fields = appendTo(append(line.space[:0], zap.Object("request", line), zap.Duration("duration", line.Took)))
		}
		entry.Write(fields...)
	}
}

// explain returns how Caddy treats an error: the status of the answer, the message, and a function that appends the fields.
func explain(err error) (status int, message string, appendTo func([]zapcore.Field) []zapcore.Field) {
	handler, ok := errors.AsType[caddyhttp.HandlerError](err)
	if !ok {
		return http.StatusInternalServerError, err.Error(), func(fields []zapcore.Field) []zapcore.Field { return append(fields, zap.Error(err)) }
	}
	message = err.Error()
	if handler.Err != nil {
		message = handler.Err.Error()
	}
	return handler.StatusCode, message, func(fields []zapcore.Field) []zapcore.Field {
		return append(fields, zap.Int("status", handler.StatusCode), zap.String("err_id", handler.ID), zap.String("err_trace", handler.Trace))
	}
}

// MarshalLogObject implements [zapcore.ObjectMarshaler]: it logs the request as [caddyhttp.LoggableHTTPRequest] does, without creating one.
func (line *Line) MarshalLogObject(e zapcore.ObjectEncoder) error {
	ip, port, err := net.SplitHostPort(line.Client.Remote)
	if err != nil {
		ip, port = line.Client.Remote, ""
	}
	h := line.Head
	raw := string(h.Raw)
	e.AddString("remote_ip", ip)
	e.AddString("remote_port", port)
	e.AddString("client_ip", line.ClientIP)
	e.AddString("proto", proto)
	e.AddString("method", h.Method)
	e.AddString("host", raw[h.Host.Start:h.Host.End])
	e.AddString("uri", raw[h.Target.Start:h.Target.End])
	if err := e.AddObject("headers", &loggedHeader{head: h, raw: raw, credentials: line.log.credentials}); err != nil {
		return err
	}
	if line.Client.TLS != nil {
		return e.AddObject("tls", (*loggedTLS)(line.Client))
	}
	return nil
}

// loggedTLS logs a client's TLS state.
type loggedTLS Client

// MarshalLogObject implements [zapcore.ObjectMarshaler].
func (c *loggedTLS) MarshalLogObject(e zapcore.ObjectEncoder) error {
	return caddyhttp.LoggableTLSConnState(*c.TLS).MarshalLogObject(e)
}

// loggedHeader logs the fields of a head as [caddyhttp.LoggableHTTPHeader] does. Encoders read it before they return.
type loggedHeader struct {
	head        *h1.Head
	raw         string
	credentials bool
}

var redacted = caddyhttp.LoggableStringArray{"REDACTED"}

// MarshalLogObject implements [zapcore.ObjectMarshaler].
func (l *loggedHeader) MarshalLogObject(e zapcore.ObjectEncoder) error {
	fields := l.head.Fields
	if len(fields) > few {
		header := caddyhttp.LoggableHTTPHeader{Header: header(l.head, l.raw), ShouldLogCredentials: l.credentials}
		return header.MarshalLogObject(e)
	}
	// One backing array for all values: the values of a name are stored contiguously when its first field is met.
	backing := make(caddyhttp.LoggableStringArray, 0, len(fields))
	for i, f := range fields {
		name := l.raw[f.Name.Start:f.Name.End]
		if name == hostName || !first(l.head, i) {
			continue
		}
		values := redacted
		if l.credentials || !secret(name) {
			start := len(backing)
			for _, same := range fields[i:] {
				if l.raw[same.Name.Start:same.Name.End] == name {
					backing = append(backing, l.raw[same.Value.Start:same.Value.End])
				}
			}
			values = backing[start:len(backing):len(backing)]
		}
		if err := e.AddArray(name, values); err != nil {
			return err
		}
	}
	if addsCacheControl(l.head) {
		return e.AddArray(cacheControlName, caddyhttp.LoggableStringArray{noCache})
	}
	return nil
}

// secret reports whether the values of the field of that name, which is canonical, are credentials.
func secret(name string) bool {
	switch name {
	case "Cookie", "Set-Cookie", "Authorization", "Proxy-Authorization":
		return true
	}
	return false
}
