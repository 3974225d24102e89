package lbmodule

import (
	"context"

	"go.uber.org/zap"

	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// redial has the members of set tried when they are dead; ended tells that the config has ended. Each of the functions that it returns
// ends that for one of them.
func (h *Handler) redial(set *memberSet, ended bool) (stops []func()) {
	if set == nil {
		return nil
	}
	for i := range set.view.Len() {
		b := set.view.Backend(i)
		if b.Unchecked || b.State > pool.Draining {
			continue
		}
		dial, err := h.redialer(b.Address)
		if err != nil {
			// Only addresses that a dynamic source named can be wrong here.
			h.logger.Error("backend cannot be tried", zap.String("pool", h.pool.Name()), zap.String("backend", b.Address), zap.Error(err))
			continue
		}
		stops = append(stops, set.view.Member(i).Redial(dial, ended))
	}
	return stops
}

// redialer connects to the backend of that address.
func (h *Handler) redialer(address string) (pool.Dialer, error) {
	t, err := stock.ProbeTargetAt(address, 0)
	if err != nil {
		return nil, err
	}
	connect := t.Redialer(h.stock.Transport.Configured())
	return func(ctx context.Context) error {
		conn, err := connect(ctx)
		if err != nil {
			return err
		}
		if h.probing != nil {
			// While it was down, probes have become rare.
			checker.Hurry(h.probing.check.Key(address, h.probing.raw))
		}
		return conn.Close()
	}, nil
}
