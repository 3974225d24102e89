package lbmodule

import (
	"context"
	"sync"

	"go.uber.org/zap"

	"github.com/caddyserver/certmagic"
)

// managerRegistry knows the managers of the pools in use by name. The zero managerRegistry is ready for use.
type managerRegistry struct {
	mu   sync.Mutex
	used map[string]*usedManager
}

type usedManager struct {
	*manager
	refs int
}

// managers hold the edits of all pools, over config reloads.
var managers managerRegistry

// acquire returns the manager of the pool of that name. If nobody uses it yet it begins with what is in storage. Every acquire
// wants one release.
func (r *managerRegistry) acquire(ctx context.Context, name string, storage certmagic.Storage, logger *zap.Logger) *manager {
	r.mu.Lock()
	defer r.mu.Unlock()
	used := r.used[name]
	if used == nil {
		m := &manager{pool: pools.Acquire(name)}
		m.edits.Store(&edits{Overlay: m.keeper.load(ctx, storage, name, logger)})
		m.names.Store(new(map[string]string))
		used = &usedManager{manager: m}
		if r.used == nil {
			r.used = make(map[string]*usedManager)
		}
		r.used[name] = used
	}
	used.refs++
	return used.manager
}

// release takes back one acquire; the last one forgets the manager and its pool.
func (r *managerRegistry) release(m *manager) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := m.pool.Name()
	used := r.used[name]
	if used == nil || used.manager != m {
		return
	}
	if used.refs--; used.refs == 0 {
		delete(r.used, name)
		pools.Release(m.pool)
	}
}
