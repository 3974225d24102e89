package lbmodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/stock"
)

// checkPools checks that the config has the pools that r is to look at. The load balancers that come later in the config are not there
// yet, but their JSON is: the http app has them, of which r is a part.
func (r *Ready) checkPools(ctx caddy.Context) error {
	asked := askedFor.take(r.Pools)
	r.app.mu.Lock()
	pools := slices.Clone(r.app.joined)
	r.app.mu.Unlock()
	loaded, err := ctx.AppIfConfigured("http")
	if err == nil {
		pools, err = withComing(pools, loaded.(*caddyhttp.App))
	}
	if err != nil && !errors.Is(err, caddy.ErrNotConfigured) {
		return nil //nolint:nilerr // it is told of where it belongs: the config is not accepted with it
	}
	for _, name := range r.Pools {
		if slices.ContainsFunc(pools, func(p joinedPool) bool { return p.called == name }) {
			continue
		}
		if at := asked[name]; at != "" {
			return fmt.Errorf("load_balancer_ready: pools: there is no pool named %s, at %s", name, at)
		}
		return fmt.Errorf("load_balancer_ready: pools: there is no pool named %s", name)
	}
	return nil
}

// withComing appends the pools to these that the load balancers of app will have which have not been loaded.
func withComing(pools []joinedPool, app *caddyhttp.App) ([]joinedPool, error) {
	all, err := json.Marshal(app)
	if err != nil {
		return nil, err
	}
	err = eachObject(all, func(object map[string]json.RawMessage) error {
		var handler string
		if json.Unmarshal(object["handler"], &handler) != nil || handler != new(Handler).CaddyModule().ID.Name() {
			return nil
		}
		settings := maps.Clone(object)
		delete(settings, "handler")
		text, err := json.Marshal(settings)
		if err != nil {
			return err
		}
		h := new(Handler)
		if err := json.Unmarshal(text, h); err != nil {
			return err
		}
		if err := h.Check(); err != nil {
			return err
		}
		words, err := stock.Read(&h.Handler)
		if err != nil {
			return err
		}
		of, err := h.describe(&words)
		if err != nil {
			return err
		}
		name, have, err := nameIn(pools, h.Name, h.derivedName(&words), of)
		if err == nil && have < 0 {
			pools = append(pools, joinedPool{called: name, explicit: h.Name != "", settings: of})
		}
		return err
	})
	return pools, err
}

// eachObject calls do for each object in text, which is JSON, however deep.
func eachObject(text json.RawMessage, do func(object map[string]json.RawMessage) error) error {
	var object map[string]json.RawMessage
	var list []json.RawMessage
	switch {
	case json.Unmarshal(text, &object) == nil:
		if err := do(object); err != nil {
			return err
		}
		for _, key := range slices.Sorted(maps.Keys(object)) {
			list = append(list, object[key])
		}
	case json.Unmarshal(text, &list) != nil:
		return nil
	}
	for _, part := range list {
		if err := eachObject(part, do); err != nil {
			return err
		}
	}
	return nil
}

// askedFor is where the Caddyfiles that were adapted last ask for pools. A line has no place in the JSON that is provisioned, and
// while a Caddyfile is adapted nobody knows which pools follow.
var askedFor positions

// positions are where names stand, until they are taken.
type positions struct {
	mu sync.Mutex
	of map[string]string
}

// NoteAsked notes where a Caddyfile asks for the pool of that name.
func NoteAsked(name, position string) { askedFor.note(name, position) }

func (p *positions) note(name, position string) {
	const most = 1000 // of Caddyfiles that are adapted and not provisioned
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of == nil || len(p.of) >= most {
		p.of = make(map[string]string)
	}
	p.of[name] = position
}

// take returns where these names stand, and forgets it: another config may ask for them elsewhere.
func (p *positions) take(names []string) map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := make(map[string]string)
	for _, name := range names {
		taken[name] = p.of[name]
		delete(p.of, name)
	}
	return taken
}
