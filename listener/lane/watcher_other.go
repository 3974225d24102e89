//go:build !linux

package lane

import "time"

// supported tells whether this platform has the system calls that the lane needs.
const supported = false

type watcher struct{}

type watched struct{ fd int32 }

func newWatcher(*Lane) *watcher { return nil }

func (*watcher) begin(*conn) {}
func (*watcher) end(*conn)   {}
func (*watcher) close()      {}

func (*watcher) park(*conn, time.Time) bool { return false }
func (*watcher) unpark(*conn) bool          { return false }
