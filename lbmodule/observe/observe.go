// Package observe shows what a load balancer did with one request: in the access log, in placeholders, in spans, and in a header of the
// answer. It computes values on demand, so that a request costs next to nothing if none is used.
package observe

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/exchange"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/service"
	"github.com/ballastlb/ballast/lbmodule/status"
)

const (
	// logField is the field of the access log that describes the request's way through the load balancer.
	logField = "load_balancer"

	// placeholderPrefix is the prefix of the placeholders with the same values.
	placeholderPrefix = "http.load_balancer."

	// requestVar is the request variable that holds the *Request. If handle_response routes contain another load balancer, it overwrites
	// the variable after the last attempt of the first.
	requestVar = "load_balancer.request"
)

// Observer shows the requests of one load balancer. Its fields never change.
type Observer struct {
	Pool   string // its name
	Policy string // the name of the selection policy
	Secure bool   // connections to backends use TLS

	// Name returns the name of the backend of that address.
	Name func(address string) string
	// Dialed returns the address to which back connects; "" if that is not known.
	Dialed func(back http.RoundTripper) string
	// Kind classifies an error of an attempt.
	Kind func(err error) course.Kind

	// DebugHeader is the header field that shows clients in DebugRanges how their backend was chosen.
	DebugHeader string
	DebugRanges []netip.Prefix
	// Explain returns, for each member, whether the request may go there and why. tried are the addresses that it has tried, chosen is its
	// destination. The result is encoded as JSON; its strings must be ASCII without control characters.
	Explain func(m course.Members, tried []string, chosen string) any
}

// maxExplained is the largest number of candidates in the debug header.
const maxExplained = 16

// New returns the observer of a load balancer. header is nil if there is no debug header. The caller must set Secure, Dialed and Kind.
func New(s *service.Service, header *config.DebugHeader) Observer {
	name := s.Manager().Name
	o := Observer{
		Pool: s.Pool().Name(), Policy: s.PolicyName(), Name: name,
		Explain: func(m course.Members, tried []string, chosen string) any {
			x := status.Explain(s, m.(*service.Set), tried)
			x.Chosen = name(chosen)
			if n := len(x.Candidates); n > maxExplained {
				x.Candidates, x.More = x.Candidates[:maxExplained], n-maxExplained
			}
			return x // its strings are ASCII without control characters
		},
	}
	if o.DebugRanges = header.Prefixes(); len(o.DebugRanges) > 0 {
		o.DebugHeader = header.Name
	}
	return o
}

// Placeholders are further placeholders of a request.
type Placeholders interface {
	// Placeholder returns the value of the placeholder of that name; ok is false if there is none.
	Placeholder(name string) (value any, ok bool)
}

// Request shows one request. Call [Request.Show] or [Request.Observe] before anything else.
type Request struct {
	observer *Observer
	record   *exchange.Record
	others   Placeholders
	w        http.ResponseWriter // gets the debug header; nil if the client must not see it
}

// Show makes the access log and the placeholders show r and the record of its exchange. others are the placeholders of reverse_proxy.
func (q *Request) Show(o *Observer, record *exchange.Record, others Placeholders, w http.ResponseWriter, r *http.Request) {
	q.Observe(o, record)
	q.others = others
	ctx := r.Context()
	if o.maySeeDebug(ctx) {
		q.w = w
	}
	_, before := caddyhttp.GetVar(ctx, requestVar).(*Request)
	caddyhttp.SetVar(ctx, requestVar, q)
	if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok && !before {
		// If several load balancers handle a request, the latest is shown, here and in the log.
		repl.Map(func(key string) (any, bool) {
			if !strings.HasPrefix(key, "http.") {
				return nil, false
			}
			latest := caddyhttp.GetVar(ctx, requestVar).(*Request)
			if name, ours := strings.CutPrefix(key, placeholderPrefix); ours {
				return latest.placeholder(name)
			}
			return latest.others.Placeholder(key)
		})
	}
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.Logs == nil {
		return
	}
	if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(q.Field())
	}
}

// Observe sets the record that q shows. Unlike [Request.Show] it changes neither the log nor the placeholders: the caller logs
// [Request.Field] if the request is logged.
func (q *Request) Observe(o *Observer, record *exchange.Record) { q.observer, q.record = o, record }

// Field returns the field of the access log.
func (q *Request) Field() zap.Field { return zap.Object(logField, q) }

// MarshalLogObject implements [zapcore.ObjectMarshaler].
func (q *Request) MarshalLogObject(e zapcore.ObjectEncoder) error {
	e.AddString("pool", q.observer.Pool)
	e.AddString("backend", q.backend())
	e.AddString("policy", q.observer.Policy)
	e.AddFloat64("queue_ms", milliseconds(q.record.Waited()))
	if err := q.record.Refused(); err != nil {
		e.AddString("error", err.Error())
	}
	return e.AddArray("attempts", (*attemptLog)(q))
}

// placeholder returns the value of the placeholder of that name.
func (q *Request) placeholder(name string) (any, bool) {
	switch name {
	case "pool":
		return q.observer.Pool, true
	case "backend":
		return q.backend(), true
	case "policy":
		return q.observer.Policy, true
	case "queue_ms":
		return milliseconds(q.record.Waited()), true
	case "attempts":
		return q.attempts(), true
	case "retries":
		return max(len(q.record.Trail())-1, 0), true
	case "error":
		return q.lastError(), true
	default:
		return nil, false
	}
}

// backend returns the name of the backend of the current or last attempt; "" if there was no attempt.
func (q *Request) backend() string {
	a := q.record.Current()
	if a == nil {
		return ""
	}
	return q.observer.Name(a.Address)
}

// lastError returns why the request was refused, or the last error of an attempt; "" if there was none.
func (q *Request) lastError() string {
	if err := q.record.Refused(); err != nil {
		return err.Error()
	}
	for _, a := range slices.Backward(q.record.Trail()) {
		if a.Err != nil {
			return a.Err.Error()
		}
	}
	return ""
}

// Status returns the status of the answer to the client; err is the error that the handler returns.
func (q *Request) Status(err error) int {
	if err != nil {
		if answer, ok := errors.AsType[caddyhttp.HandlerError](err); ok && answer.StatusCode != 0 {
			return answer.StatusCode
		}
		return http.StatusInternalServerError
	}
	return cmp.Or(q.record.Passed(), pool.StatusCanceled)
}

// attemptList are attempts as logs and placeholders show them.
type attemptList []attempt

type attempt struct {
	Backend string  `json:"backend"`
	Status  int     `json:"status"` // 0 without an answer
	GRPC    string  `json:"grpc_status,omitempty"`
	Ms      float64 `json:"ms"` // until the answer's header, or until it failed
	Error   string  `json:"error,omitempty"`
}

// attempts returns the attempts so far.
func (q *Request) attempts() attemptList {
	trail := q.record.Trail()
	list := make(attemptList, len(trail))
	for i := range trail {
		list[i].set(&trail[i], q.observer)
	}
	return list
}

// set copies the attempt to a.
func (a *attempt) set(from *exchange.Attempt, o *Observer) {
	*a = attempt{Backend: o.Name(from.Address), Status: from.Status, GRPC: from.Call.String(), Ms: milliseconds(from.Took)}
	if from.Err != nil {
		a.Error = from.Err.Error()
	}
}

// attemptLog is a Request as the list of its attempts in the access log. Unlike an attemptList, it allocates the same for any number of
// them.
type attemptLog Request

// MarshalLogArray implements [zapcore.ArrayMarshaler].
func (l *attemptLog) MarshalLogArray(e zapcore.ArrayEncoder) error {
	var a attempt // encoders read it before they return
	trail := l.record.Trail()
	for i := range trail {
		a.set(&trail[i], l.observer)
		if err := e.AppendObject(&a); err != nil {
			return err
		}
	}
	return nil
}

// String returns the list as JSON, for the placeholder.
func (l attemptList) String() string {
	text, err := json.Marshal(l)
	if err != nil {
		return ""
	}
	return string(text)
}

// MarshalLogArray implements [zapcore.ArrayMarshaler].
func (l attemptList) MarshalLogArray(e zapcore.ArrayEncoder) error {
	for _, a := range l {
		if err := e.AppendObject(a); err != nil {
			return err
		}
	}
	return nil
}

// MarshalLogObject implements [zapcore.ObjectMarshaler].
func (a attempt) MarshalLogObject(e zapcore.ObjectEncoder) error {
	e.AddString("backend", a.Backend)
	e.AddInt("status", a.Status)
	if a.GRPC != "" {
		e.AddString("grpc_status", a.GRPC)
	}
	e.AddFloat64("ms", a.Ms)
	if a.Error != "" {
		e.AddString("error", a.Error)
	}
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// maySeeDebug reports whether the client of a request may see the debug header.
func (o *Observer) maySeeDebug(ctx context.Context) bool {
	if len(o.DebugRanges) == 0 {
		return false
	}
	text, _ := caddyhttp.GetVar(ctx, caddyhttp.ClientIPVarKey).(string)
	address, err := netip.ParseAddr(text)
	if err != nil {
		return false
	}
	address = address.Unmap().WithZone("")
	return slices.ContainsFunc(o.DebugRanges, func(p netip.Prefix) bool { return p.Contains(address) })
}

// Chosen implements [exchange.Observer]: it sets the debug header.
func (o *Observer) Chosen(x *exchange.Exchange) {
	if len(o.DebugRanges) == 0 {
		return
	}
	q, ok := caddyhttp.GetVar(x.Context(), requestVar).(*Request)
	if !ok || q.record != x.Record || q.w == nil {
		return
	}
	c := x.Course()
	tried := make([]string, 0, len(c.Tried()))
	for _, i := range c.Tried() {
		tried = append(tried, c.Members().Target(i).Address())
	}
	if text, err := json.Marshal(o.Explain(c.Members(), tried, c.Choice().Target.Address())); err == nil {
		q.w.Header().Set(o.DebugHeader, string(text))
	}
}
