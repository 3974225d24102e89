package pool

import "time"

// Ended is closed when the view is.
func (v *View) Ended() <-chan struct{} { return v.ended }

// LookAgain has a closed view look at its members, who do not tell it any more what happens to them: a request that waits is served
// although its config has ended.
func (v *View) LookAgain(now time.Time) {
	v.mu.Lock()
	if !v.closed {
		v.mu.Unlock()
		return
	}
	old := v.snap.Load()
	next, events, _ := v.build(old, now)
	if !next.like(old) {
		v.snap.Store(next)
		next.sync()
		close(old.replaced)
	}
	v.mu.Unlock()
	v.pool.Report(events)
}
