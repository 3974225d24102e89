//go:build !linux

package lane

// supported says whether this platform has what the lane needs.
const supported = false

type hangups struct{}

type hangup struct{ fd int32 }

func newHangups(*Lane) *hangups { return nil }

func (*hangups) begin(*conn) {}
func (*hangups) end(*conn)   {}
func (*hangups) close()      {}
