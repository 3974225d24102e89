package lbmodule

import (
	"net/http"

	"go.uber.org/zap"

	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/overlay"
)

// audit tells who has changed what. before is the backend as it was, nil if there was none.
func (c *apiCall) audit(event, address string, before *overlay.Running, change *manage.Change) {
	c.app.tellChange(event, c.s.Manager(), address, before, change, c.r.RemoteAddr, identity(c.r))
}

// identity is who a client certificate says that the client is; "" without one.
func identity(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	return r.TLS.PeerCertificates[0].Subject.String()
}

// tellChange tells that somebody has changed a backend.
func (a *App) tellChange(event string, m *manage.Manager, address string, before *overlay.Running, change *manage.Change, remote, identity string) {
	name := m.Name(address)
	if before != nil {
		name = before.Name
	}
	data := map[string]any{"pool": m.Pool().Name(), "backend": name, "reason": change.Mark.Reason, "owner": change.Mark.Owner}
	fields := []zap.Field{
		zap.String("event", event), zap.String("pool", m.Pool().Name()), zap.String("backend", name), zap.String("address", address),
		zap.String("remote", remote), zap.String("identity", identity), zap.String("owner", change.Mark.Owner), zap.String("reason", change.Mark.Reason),
	}
	if !change.Mark.Until.IsZero() {
		data["until"] = change.Mark.Until
		fields = append(fields, zap.Time("until", change.Mark.Until))
	}
	was, is := make(map[string]any), make(map[string]any)
	note := func(f overlay.Field, value any) {
		is[string(f)] = value
		if before != nil {
			was[string(f)] = before.Get(f)
		}
	}
	for _, e := range change.Edits {
		note(e.Field, e.Value)
	}
	for _, f := range change.TakeBack {
		note(f, nil) // what the config says
	}
	if len(is) > 0 {
		data["before"], data["after"] = was, is
		fields = append(fields, zap.Any("before", was), zap.Any("after", is))
	}
	a.logger.Info("backend was changed by hand", fields...)
	a.emit(event, data)
}
