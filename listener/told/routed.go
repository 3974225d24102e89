package told

import (
	"net/http"
	"reflect"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// WriteOf writes line to the access log with the additions that handlers have left in the context of r: additional fields, other loggers
// and another level. The caller asks [Log.Wants] first. line.Extra is not used.
func (l *Log) WriteOf(line *Line, r *http.Request) {
	ctx := r.Context()
	if skip, _ := caddyhttp.GetVar(ctx, caddyhttp.LogSkipVar).(bool); skip {
		return
	}
	message, level := handled, levelOf(line.Status)
	if unhandled, _ := caddyhttp.GetVar(ctx, "unhandled").(bool); unhandled {
		message = "NOP"
	}
	if name, ok := caddyhttp.GetVar(ctx, caddyhttp.LogLevelVar).(string); ok {
		if own, err := zapcore.ParseLevel(name); err == nil && own >= zapcore.DebugLevel && own <= zapcore.ErrorLevel {
			level = own
		}
	}
	if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		line.userID, _ = repl.GetString("http.auth.user.id")
	}
	if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		line.extras = extraFields(extra)
	}
	loggers := l.of(line.Head.Host.Of(line.Head.Raw)).access
	if names, ok := caddyhttp.GetVar(ctx, caddyhttp.AccessLoggerNameVarKey).([]any); ok {
		loggers = nil
		for _, name := range names {
			logger := l.access
			if name, _ := name.(string); name != "" {
				logger = logger.Named(name)
			}
			loggers = append(loggers, logger)
		}
	}
	l.write(line, loggers, level, message)
}

// KnowsExtraFields reports whether [Log.WriteOf] can read the fields that handlers add to the access log. They are in an unexported field.
func KnowsExtraFields() bool {
	field, ok := reflect.TypeFor[caddyhttp.ExtraLogFields]().FieldByName("fields")
	return ok && field.Type == reflect.TypeFor[[]zap.Field]()
}

func extraFields(of *caddyhttp.ExtraLogFields) []zap.Field {
	if !KnowsExtraFields() {
		return nil
	}
	return *(*[]zap.Field)(reflect.ValueOf(of).Elem().FieldByName("fields").Addr().UnsafePointer())
}
