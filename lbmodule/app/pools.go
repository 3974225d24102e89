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

// PoolKey is what a load balancer says about the pool that it is to use.
type PoolKey struct {
	Name     string // as the user calls it, "" if it was given none
	Derived  string // what it is called then
	Settings string // what load balancers that share it must agree on
}

// describer reads the config of a load balancer.
var describer struct {
	handler  string // the name of its module
	describe func(config []byte) (PoolKey, error)
}

// DescribeBy has the pools of load balancers that are not loaded yet known from their config; handler is the name of their module.
func DescribeBy(handler string, describe func(config []byte) (PoolKey, error)) {
	describer.handler, describer.describe = handler, describe
}

// joinedPool is a pool of this config.
type joinedPool struct {
	*manage.Manager
	called string
	key    PoolKey // of the first that has joined it
}

// Join returns the manager of the pool of a load balancer. With an explicit name that is the pool of that name;
// without one it is the pool of one with equal settings, or a new one under the derived name, numbered
// if that is taken.
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

// nameIn is the name of the pool of a load balancer, and where that pool is among those that there are; -1 for a new one.
func nameIn(pools []joinedPool, key PoolKey) (name string, have int, err error) {
	name = cmp.Or(key.Name, key.Derived)
	for n := 2; ; n++ {
		i := slices.IndexFunc(pools, func(j joinedPool) bool { return j.called == name })
		switch {
		case i < 0 || pools[i].key.Settings == key.Settings && (pools[i].key.Name == "") == (key.Name == ""):
			return name, i, nil
		case key.Name != "":
			return "", 0, fmt.Errorf("name %s: the name stands for a pool with other settings already; pools that differ need different names", name)
		}
		// The loop ends: every turn but the last finds another pool.
		name = fmt.Sprintf("%s-%d", key.Derived, n)
	}
}

// acquire acquires the manager of the pool of that name. A storage that does not answer is not waited for once per pool.
func (a *App) acquire(name string) *manage.Manager {
	const least = 100 * time.Millisecond
	start := time.Now()
	ctx, cancel := context.WithTimeout(a.ctx, max(manage.StorageTimeout-a.waited, least))
	defer cancel()
	m := manage.Acquire(ctx, name, a.ctx.Storage(), a.logger)
	a.waited += time.Since(start)
	return m
}

// find finds the pool of that name. The caller holds a.mu.
func (a *App) find(name string) (joinedPool, bool) {
	if i := slices.IndexFunc(a.joined, func(j joinedPool) bool { return j.called == name }); i >= 0 {
		return a.joined[i], true
	}
	return joinedPool{}, false
}

// Called are the names of the config's pools: of the load balancers that have been loaded, and of those that will be, whose config the http
// app has, if it is not nil.
func (a *App) Called(http *caddyhttp.App) (names []string, err error) {
	a.mu.Lock()
	pools := slices.Clone(a.joined)
	a.mu.Unlock()
	if http != nil {
		if pools, err = withComing(pools, http); err != nil {
			return nil, err
		}
	}
	for _, p := range pools {
		names = append(names, p.called)
	}
	return names, nil
}

// withComing appends the pools to these that the load balancers of app will have which have not been loaded.
func withComing(pools []joinedPool, app *caddyhttp.App) ([]joinedPool, error) {
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
