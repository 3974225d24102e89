package app

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/manage"
)

// PoolKey identifies the pool that a load balancer uses.
type PoolKey struct {
	Name     string // the configured name, "" if there is none
	Derived  string // the name to use without a configured one
	Settings string // the settings that all load balancers of the pool must share
	Shared   string // those of them that the nodes of a fleet must share as well
}

// describer derives a PoolKey from the config of a load balancer.
var describer struct {
	handler  string // the name of its module
	describe func(config []byte) (PoolKey, error)
}

// DescribeBy sets the function that derives the pool of a load balancer that is not loaded yet from its config; handler is the name of its
// module.
func DescribeBy(handler string, describe func(config []byte) (PoolKey, error)) {
	describer.handler, describer.describe = handler, describe
}

// joinedPool is a pool of this config.
type joinedPool struct {
	*manage.Manager
	called string
	key    PoolKey // of the first load balancer that joined
}

// Join returns the manager of a load balancer's pool. With a configured name, it is the pool with that name; without one, a pool with
// equal settings, or a new pool under the derived name, which gets a number if it is taken.
func (a *App) Join(key PoolKey) (*manage.Manager, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	name, have, err := nameIn(a.joined, key)
	if err != nil {
		return nil, err
	}
	if have >= 0 {
		return a.joined[have].Manager, nil
	}
	m := a.acquire(name)
	a.joined = append(a.joined, joinedPool{Manager: m, called: name, key: key})
	return m, nil
}

// nameIn returns the name of a load balancer's pool and its index in pools, -1 if the pool is new.
func nameIn(pools []joinedPool, key PoolKey) (name string, have int, err error) {
	name = cmp.Or(key.Name, key.Derived)
	for n := 2; ; n++ {
		i := slices.IndexFunc(pools, func(j joinedPool) bool { return j.called == name })
		switch {
		case i < 0 || pools[i].key.Settings == key.Settings && (pools[i].key.Name == "") == (key.Name == ""):
			return name, i, nil
		case key.Name != "":
			return "", 0, fmt.Errorf("name %s: is already the name of a pool with other settings; different pools need different names", name)
		}
		// The loop ends, because each turn except the last finds another pool.
		name = fmt.Sprintf("%s-%d", key.Derived, n)
	}
}

// acquire acquires the manager of the pool with this name. It limits the time that all pools together wait for storage.
func (a *App) acquire(name string) *manage.Manager {
	const least = 100 * time.Millisecond
	start := time.Now()
	ctx, cancel := context.WithTimeout(a.ctx, max(manage.StorageTimeout-a.waited, least))
	defer cancel()
	m := manage.Acquire(ctx, name, a.ctx.Storage(), a.logger)
	a.waited += time.Since(start)
	return m
}

// find returns the pool with this name. The caller holds a.mu.
func (a *App) find(name string) (joinedPool, bool) {
	if i := slices.IndexFunc(a.joined, func(j joinedPool) bool { return j.called == name }); i >= 0 {
		return a.joined[i], true
	}
	return joinedPool{}, false
}

// Called returns the names of the config's pools, including those of load balancers that are not loaded yet, which are read from the http
// app's config if http is not nil.
func (a *App) Called(http *caddyhttp.App) (names []string, err error) {
	a.mu.Lock()
	pools := slices.Clone(a.joined)
	a.mu.Unlock()
	if http != nil {
		if pools, err = withUnloaded(pools, http); err != nil {
			return nil, err
		}
	}
	for _, p := range pools {
		names = append(names, p.called)
	}
	return names, nil
}

// withUnloaded appends the pools of app's load balancers that are not loaded yet.
func withUnloaded(pools []joinedPool, app *caddyhttp.App) ([]joinedPool, error) {
	all, err := json.Marshal(app)
	if err != nil {
		return nil, err
	}
	err = eachObject(all, func(object map[string]json.RawMessage) error {
		var handler string
		if json.Unmarshal(object["handler"], &handler) != nil || handler != describer.handler {
			return nil
		}
		settings := maps.Clone(object)
		delete(settings, "handler")
		text, err := json.Marshal(settings)
		if err != nil {
			return err
		}
		key, err := describer.describe(text)
		if err != nil {
			return err
		}
		name, have, err := nameIn(pools, key)
		if err == nil && have < 0 {
			pools = append(pools, joinedPool{called: name, key: key})
		}
		return err
	})
	return pools, err
}

// eachObject calls do for each object in text, which is JSON, at any depth.
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
