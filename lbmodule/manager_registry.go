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
	load sync.Once
}

// managers hold the edits of all pools, over config reloads.
var managers managerRegistry

// acquire returns the manager of the pool of that name. If nobody uses it yet it begins with what is in storage. Every acquire
// wants one release.
func (r *managerRegistry) acquire(ctx context.Context, name string, storage certmagic.Storage, logger *zap.Logger) *manager {
	r.mu.Lock()
	used := r.used[name]
	if used == nil {
		used = &usedManager{manager: newManager(name)}
		if r.used == nil {
			r.used = make(map[string]*usedManager)
		}
		r.used[name] = used
	}
	used.refs++
	r.mu.Unlock()
	used.load.Do(func() {
		used.keeper.load(ctx, storage, name, logger)
		used.edits.Store(&edits{Overlay: used.keeper.base})
	})
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
