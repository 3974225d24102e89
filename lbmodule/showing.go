package lbmodule

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/front"
	"github.com/ballastlb/ballast/lbmodule/policies"
)

// logField is the field of the access log that tells what became of a request here.
const logField = "load_balancer"

// placeholderPrefix is what the placeholders begin with that tell the same.
const placeholderPrefix = "http.load_balancer."

// show has the access log and the placeholders tell of q. Both ask when they want to know: what nobody asks for costs
// next to nothing.
func (q *request) show(ctx context.Context) {
	_, before := caddyhttp.GetVar(ctx, requestVar).(*request)
	caddyhttp.SetVar(ctx, requestVar, q)
	if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok && !before {
		// The latest load balancer on a request's way is the one that is told of, here as in the log.
		repl.Map(func(key string) (any, bool) {
			if !strings.HasPrefix(key, "http.") {
				return nil, false
			}
			latest := caddyhttp.GetVar(ctx, requestVar).(*request)
			if name, ours := strings.CutPrefix(key, placeholderPrefix); ours {
				return latest.placeholder(name)
			}
			return latest.front.Placeholder(key)
		})
	}
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.Logs == nil {
		return
	}
	if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(zap.Object(logField, q))
	}
}

// MarshalLogObject implements [zapcore.ObjectMarshaler].
func (q *request) MarshalLogObject(e zapcore.ObjectEncoder) error {
	e.AddString("pool", q.h.pool.Name())
	e.AddString("backend", q.backend())
	e.AddString("policy", policies.Name(q.h.policy))
	e.AddFloat64("queue_ms", milliseconds(q.queued))
	if q.refused != nil {
		e.AddString("error", q.refused.Error())
	}
	return e.AddArray("attempts", q.attemptsMade())
}

// placeholder returns what the placeholder of that name stands for.
func (q *request) placeholder(name string) (any, bool) {
	switch name {
	case "pool":
		return q.h.pool.Name(), true
	case "backend":
		return q.backend(), true
	case "policy":
		return policies.Name(q.h.policy), true
	case "queue_ms":
		return milliseconds(q.queued), true
	case "attempts":
		return q.attemptsMade(), true
	case "retries":
		return max(len(q.trail)-1, 0), true
	case "error":
		return q.lastError(), true
	default:
		return nil, false
	}
}

// backend is the name of the backend that the request is at, or was at last; "" if it got to none.
func (q *request) backend() string {
	if len(q.trail) == 0 {
		return ""
	}
	return q.h.manager.Name(q.trail[q.current].address)
}

// lastError tells why there is no answer, or what went wrong before there was one; "" if nothing did.
func (q *request) lastError() string {
	if q.refused != nil {
		return q.refused.Error()
	}
	for i := len(q.trail) - 1; i >= 0; i-- {
		if err := q.trail[i].err; err != nil {
			return err.Error()
		}
	}
	return ""
}

// status is the status with which the request is answered; err is what the handler returns.
func (q *request) status(err error) int {
	if err != nil {
		if answer, ok := errors.AsType[caddyhttp.HandlerError](err); ok && answer.StatusCode != 0 {
			return answer.StatusCode
		}
		return http.StatusInternalServerError
	}
	if q.passed == nil {
		return front.StatusCanceled
	}
	return q.passed.StatusCode
}
