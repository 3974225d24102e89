package app

import "sync"

// Stop has the edits written and leaves everything else to Cleanup. Caddy stops the apps of a config in any order, and the http app serves
// for `shutdown_delay` and `grace_period` before its own Stop returns: until then backends are probed, sources are polled, and the API
// answers. Cleanup follows as soon as all apps have been stopped, but by then the storage may be closed.
func (a *App) Stop() error {
	a.release()
	a.mu.Lock()
	managers := a.managers()
	a.mu.Unlock()
	var all sync.WaitGroup
	for _, m := range managers {
		all.Go(m.Flush)
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

// Cleanup undoes Start and releases the pools that this config's handlers joined. A config that was given up after Start may not have been
// stopped.
func (a *App) Cleanup() error {
	a.release()
	a.end()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, j := range a.joined {
		j.Release()
	}
	a.joined = nil
	return nil
}
