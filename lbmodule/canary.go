package lbmodule

import (
	"net/http"

	"github.com/ballastlb/ballast/lbmodule/canary"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/service"
)

// canarying decides which clients the canary serves.
type canarying struct {
	run *canary.Run
	key func(*http.Request) pool.Key
}

// newCanarying returns the handler's canary, or nil. The service must be open.
func (h *Handler) newCanarying() *canarying {
	run, settings := h.service.Canary()
	if run == nil {
		return nil
	}
	return &canarying{run, policies.KeyBy(settings.By, settings.Name)}
}

// resolveCanary replaces placeholders in the canary's settings, and checks that some of the backends are the canary.
func (h *Handler) resolveCanary(r *service.Roster) (err error) {
	var all []config.Backend
	if h.words.Dynamic == nil {
		all = r.Named()
	}
	h.Canary, err = h.Canary.Resolve(all)
	return err
}

// sideOf returns the part of the set that the request chooses from. A client stays on its side until the share changes. retry says that an
// attempt has failed.
func (c *call) sideOf(set *service.Set, retry bool) *service.Set {
	k := c.handler.canary
	side, all := k.run.All()
	if !all {
		if key := k.key(c.Request.Request()); key.Known {
			side = k.run.SideOf(key.Hash)
		}
	}
	course := c.exchange.Course()
	before, _ := course.Members().(*service.Set)
	if !retry {
		return set.Side(side, before, nil)
	}
	return set.Side(side, before, course.Tried())
}
