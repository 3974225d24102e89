package lbmodule

import (
	"context"

	"go.uber.org/zap"

	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// redial has the members of set tried when they are dead; ended tells that the config has ended. Each of the functions that it returns
// ends that for one of them.
func (s *Service) redial(set *Set, ended bool) (stops []func()) {
	if set == nil {
		return nil
	}
	for i := range set.view.Len() {
		b := set.view.Backend(i)
		if b.Unchecked || b.State > pool.Draining {
			continue
		}
		dial, err := s.redialer(b.Address)
		if err != nil {
			// Only addresses that a dynamic source named can be wrong here.
			s.logger.Error("backend cannot be tried", zap.String("pool", s.pool.Name()), zap.String("backend", b.Address), zap.Error(err))
			continue
		}
		stops = append(stops, set.view.Member(i).Redial(dial, ended))
	}
	return stops
}

// redialer connects to the backend of that address.
func (s *Service) redialer(address string) (pool.Dialer, error) {
	t, err := stock.ProbeTargetAt(address, 0)
	if err != nil {
		return nil, err
	}
	connect := t.Redialer(s.transport)
	return func(ctx context.Context) error {
		conn, err := connect(ctx)
		if err != nil {
			return err
		}
		if s.probing != nil {
			// While it was down, probes have become rare.
			checker.Hurry(s.probing.check.Key(address, s.probing.raw))
		}
		return conn.Close()
	}, nil
}
