package app

import (
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Stop writes pending edits and leaves everything else to Cleanup. Caddy stops the apps of a config in any order, and the http app serves
// for `shutdown_delay` and `grace_period` before its own Stop returns: until then backends are probed, sources are polled, and the API
// answers. Cleanup is called as soon as all apps have been stopped, but by then the storage may be closed.
func (a *App) Stop() error {
	a.release()
	a.mu.Lock()
	managers, services := a.managers(), a.services
	a.mu.Unlock()
	var all sync.WaitGroup
	all.Go(a.leaveFleet)
	for _, m := range managers {
		all.Go(m.Flush)
	}
	for _, s := range services {
		all.Go(s.KeepCanary)
	}
	all.Wait()
	return nil
}

// end undoes Start.
func (a *App) end() {
	if a.stop == nil {
		return
	}
	a.stop()
	a.stop = nil
	a.done.Wait()
	serving.Remove(a)
	if !caddy.Exiting() { // otherwise the servers end the streams, after their delay
		WatchExit()
	}
	Events.endStreams(a)
	a.mu.Lock()
	managers := a.managers()
	a.mu.Unlock()
	var all sync.WaitGroup
	for _, m := range managers {
		all.Go(func() { m.Unserve(a) }) // it may notify a
	}
	all.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, quiet := range a.quiet {
		quiet()
	}
	a.quiet = nil
	for _, s := range a.services {
		s.Stop()
	}
}

// Cleanup undoes Start and releases the pools that this config's handlers joined. If Caddy rolled the config back after Start, Stop may not
// have been called.
func (a *App) Cleanup() error {
	a.release()
	a.end()
	a.leaveLanes()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, j := range a.joined {
		j.Release()
	}
	a.joined = nil
	return nil
}

// lastCallMargin is how long before the end of `grace_period` waiting requests are answered, but at most a quarter of that period.
const lastCallMargin = time.Second

// LastCall must be called when a server of this config begins to shut down. If Caddy is exiting, requests that still wait for a backend
// shortly before the end of `grace_period` are answered 503; otherwise the exit would cut their connections. After a reload they wait on.
func (a *App) LastCall() {
	if !caddy.Exiting() {
		return
	}
	a.lastCall.Do(func() {
		loaded, err := a.ctx.AppIfConfigured("http")
		if err != nil {
			return
		}
		grace := time.Duration(loaded.(*caddyhttp.App).GracePeriod)
		if grace <= 0 {
			return // Caddy waits for all requests
		}
		time.AfterFunc(grace-min(lastCallMargin, grace/4), a.dismiss)
	})
}

// dismiss ends the waits of all requests.
func (a *App) dismiss() {
	a.mu.Lock()
	managers := a.managers()
	a.mu.Unlock()
	for _, m := range managers {
		m.Pool().Dismiss()
	}
}
