package lbmodule

import (
	"time"

	"go.uber.org/zap"

	"github.com/ballastlb/ballast/lbmodule/front"
	"github.com/ballastlb/ballast/lbmodule/mirror"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// mirroring is a mirror and its upstreams.
type mirroring struct {
	*mirror.Mirror
	upstreams []*front.Mirror
}

// newMirroring returns the handler's mirror; nil for none.
func (h *Handler) newMirroring(p *pool.Pool) (*mirroring, error) {
	settings := h.Mirror
	if settings == nil {
		return nil, nil
	}
	m := &mirroring{Mirror: mirror.New(mirror.Options{
		Upstreams: settings.Upstreams, Share: settings.Share, Timeout: time.Duration(settings.Timeout), Most: settings.MaxRequests,
		Counts: &p.Mirrored, Timed: stock.IsTimeout, Logger: h.logger.With(zap.String("pool", p.Name())),
	})}
	for _, address := range settings.Upstreams {
		upstream, err := h.front.NewMirror(m.Context(), address)
		if err != nil {
			m.Close()
			return nil, err
		}
		m.upstreams = append(m.upstreams, upstream)
	}
	return m, nil
}

func (m *mirroring) close() {
	if m != nil {
		m.Close()
	}
}

// mirror sends a copy of the request to an upstream of the mirror, if the request is selected for copying.
func (c *call) mirror(m *mirroring, now time.Time) {
	if !c.Copyable() || !m.Draws() || !c.Mirrorable() {
		return
	}
	at, ok := m.Choose(now)
	if !ok {
		return
	}
	sent := false
	defer func() {
		if !sent {
			m.Abandon() // a placeholder of another plugin panicked; the panic goes on
		}
	}()
	r, trip := c.ForMirror(m.upstreams[at])
	sent = true
	m.Send(at, r, trip)
}
