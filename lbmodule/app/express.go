package app

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// ExpressServer is the state of the express lane of a server, as in the API.
type ExpressServer struct {
	Server     string            `json:"server"`
	Listen     []string          `json:"listen"`
	On         bool              `json:"on"`
	Reason     string            `json:"reason,omitempty"` // why it is off
	Served     uint64            `json:"served"`
	HandedOver map[string]uint64 `json:"handed_over"` // requests that Caddy served, by reason
	Routes     []ExpressRoute    `json:"routes"`
}

// ExpressRoute is a route that ends requests. Hosts and paths are those of the matchers on the way to it; none means all.
type ExpressRoute struct {
	Hosts   []string `json:"hosts"`
	Paths   []string `json:"paths"`
	Handler string   `json:"handler"`
	Pool    string   `json:"pool,omitempty"`
	Served  bool     `json:"served"`
	Reason  string   `json:"reason,omitempty"` // why it is not served
}

// ExpressCounts counts the requests of a server that the express lane and Caddy served. It outlives configs and is safe for concurrent use.
// The zero ExpressCounts is ready for use.
type ExpressCounts struct {
	served atomic.Uint64

	mu         sync.Mutex // held while a reason is added
	handedOver atomic.Pointer[map[string]*atomic.Uint64]
}

// mostReasons is the largest number of reasons that are counted separately. They come from the code and from the names of modules.
const mostReasons = 128

// Serve counts a request that the express lane served.
func (c *ExpressCounts) Serve() { c.served.Add(1) }

// HandOver counts a request that Caddy served for that reason.
func (c *ExpressCounts) HandOver(reason string) { c.of(reason).Add(1) }

func (c *ExpressCounts) of(reason string) *atomic.Uint64 {
	if all := c.handedOver.Load(); all != nil && (*all)[reason] != nil {
		return (*all)[reason]
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make(map[string]*atomic.Uint64)
	if have := c.handedOver.Load(); have != nil {
		all = *have
	}
	if len(all) >= mostReasons {
		reason = "other"
	}
	if all[reason] == nil {
		all = maps.Clone(all)
		all[reason] = new(atomic.Uint64)
		c.handedOver.Store(&all)
	}
	return all[reason]
}

func (c *ExpressCounts) reasons() map[string]uint64 {
	found := make(map[string]uint64)
	if all := c.handedOver.Load(); all != nil {
		for reason, n := range *all {
			found[reason] = n.Load()
		}
	}
	return found
}

// lanes has the counts of servers by name, as long as a config has a server with that name.
var lanes struct {
	sync.Mutex
	all map[string]*lane
}

type lane struct {
	ExpressCounts
	users int
}

// AddExpress adds a server to what the API shows. It returns the server's counts, which continue those of earlier configs.
func (a *App) AddExpress(s ExpressServer) *ExpressCounts {
	a.mu.Lock()
	defer a.mu.Unlock()
	lanes.Lock()
	defer lanes.Unlock()
	l := lanes.all[s.Server]
	if l == nil {
		l = new(lane)
		if lanes.all == nil {
			lanes.all = make(map[string]*lane)
		}
		lanes.all[s.Server] = l
	}
	l.users++
	a.lanes = append(a.lanes, joinedLane{s, l})
	return &l.ExpressCounts
}

// joinedLane is the express lane of a server of this config.
type joinedLane struct {
	shown ExpressServer
	lane  *lane
}

// Express describes the express lanes of a's servers, sorted by name.
func (a *App) Express() []ExpressServer {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := []ExpressServer{}
	for _, j := range a.lanes {
		s := j.shown
		s.Served, s.HandedOver = j.lane.served.Load(), j.lane.reasons()
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b ExpressServer) int { return strings.Compare(a.Server, b.Server) })
	return all
}

// leaveLanes releases the counts of a's servers.
func (a *App) leaveLanes() {
	a.mu.Lock()
	defer a.mu.Unlock()
	lanes.Lock()
	defer lanes.Unlock()
	for _, j := range a.lanes {
		if j.lane.users--; j.lane.users == 0 {
			delete(lanes.all, j.shown.Server)
		}
	}
	a.lanes = nil
}
