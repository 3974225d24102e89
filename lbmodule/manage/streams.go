package manage

import (
	"time"
)

// settleStreams tells the pool which backends the serving config has, so that streams to other backends are drained. While two configs
// serve it does nothing, because the newer one may be rolled back. The caller holds m.mu.
func (m *Manager) settleStreams(now time.Time) {
	if len(m.owners) > 1 {
		return
	}
	g := m.latest()
	if g == nil {
		m.pool.SettleStreams(func(string) bool { return false }, m.drain, now)
		return
	}
	m.drain = g.DrainTimeout()
	m.pool.SettleStreams(m.has(g, now), m.drain, now)
}

// has returns a function that reports whether g has the backend with an address. A load balancer with a dynamic source is assumed to have
// all: the source may list other backends at any time, and that ends no requests either. The caller holds m.mu.
func (m *Manager) has(g Group, now time.Time) func(address string) bool {
	if g.Dynamic() {
		return func(string) bool { return true }
	}
	running := make(map[string]bool)
	for _, b := range m.Running(g, now) {
		running[b.Address] = true
	}
	return func(address string) bool { return running[address] }
}

// StreamOpened must be called when a request of a config that has ended has become a stream.
func (m *Manager) StreamOpened() {
	managers.mu.Lock()
	if used := managers.used[m.pool.Name()]; used != nil && used.pool == m.pool {
		m = used.Manager // another manager, if the pool was dropped and created again
	}
	managers.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.settleStreams(time.Now())
}

// EndStreams ends the streams of all pools, and those that begin later.
func EndStreams() { pools.EndStreams() }

// Streams returns the number of streams of all pools.
func Streams() int { return pools.Streams() }
