package lane

import (
	"maps"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/listener/express"
	"github.com/ballastlb/ballast/listener/told"
)

// Site is what the lane needs of one config's server.
type Site struct {
	Server  *caddyhttp.Server
	Table   *express.Table
	Log     *told.Log
	Metrics *told.Metrics // nil without metrics
	Logger  *zap.Logger

	// Errors answers requests that ended with an error; nil if the server has no routes for them.
	Errors caddyhttp.Handler

	// AltSvc returns the value of the Alt-Svc field, "" for none. It is nil without HTTP/3.
	AltSvc func() string

	mu     sync.Mutex // held while meters is replaced
	meters atomic.Pointer[map[uint64]*told.Meter]
}

// meter returns the meter of requests that match these routes.
func (s *Site) meter(routes []express.Matched) *told.Meter {
	const most, bits = 4, 16 // routes by which meters are told apart, and bits for each
	key := uint64(0)
	for _, r := range routes {
		if len(routes) > most || r.Index >= 1<<bits-1 {
			return s.newMeter(routes)
		}
		key = key<<bits | uint64(r.Index+1)
	}
	if known := s.meters.Load(); known != nil && (*known)[key] != nil {
		return (*known)[key]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	grown := make(map[uint64]*told.Meter)
	if known := s.meters.Load(); known != nil {
		maps.Copy(grown, *known)
	}
	if grown[key] == nil {
		grown[key] = s.newMeter(routes)
		s.meters.Store(&grown)
	}
	return grown[key]
}

func (s *Site) newMeter(routes []express.Matched) *told.Meter {
	handlers := make([]string, len(routes))
	for i, r := range routes {
		handlers[i] = r.Handler
	}
	return s.Metrics.Meter(handlers...)
}
