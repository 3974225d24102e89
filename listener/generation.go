package listener

import (
	"crypto/tls"
	"net"
	"net/http"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/listener/lane"
)

// generation is what one config wants with the connections of a door. To Caddy it is the listener of the config's server.
type generation struct {
	door      *door
	ln        net.Listener // that Caddy has opened for this config
	socket    socket       // beneath ln
	handler   http.Handler
	wrappers  wrappers
	keepAlive net.KeepAliveConfig
	shape     shape
	choose    func(*tls.ClientHelloInfo) (*tls.Config, error) // nil if connections are not encrypted
	settled   <-chan struct{}                                 // closed when the config has what it needs to serve
	grace     caddy.Duration
	logger    *zap.Logger
	stdlib    *zap.Logger // for net/http
	site      *lane.Site  // of the express lane; nil if there is none

	toCaddy bool          // connections are passed to the server that calls Accept, instead of to ours
	handed  chan net.Conn // those connections

	closed chan struct{}
}

// policies makes a function for tls.Config.GetConfigForClient from that of g's server: it uses the one of the generation that serves when
// the client says hello. The certificates of an earlier one may not be there any more.
func (g *generation) policies(own func(*tls.ClientHelloInfo) (*tls.Config, error)) func(*tls.ClientHelloInfo) (*tls.Config, error) {
	g.choose = own
	return func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if choose := g.door.serving.Load().choose; choose != nil {
			return choose(hello)
		}
		return own(hello)
	}
}

// Accept implements [net.Listener].
func (g *generation) Accept() (net.Conn, error) {
	select {
	case c := <-g.handed:
		return c, nil
	case <-g.closed:
		return nil, net.ErrClosed
	}
}

// Addr implements [net.Listener].
func (g *generation) Addr() net.Addr { return g.ln.Addr() }

// Close implements [net.Listener]. Caddy calls it when the config stops serving.
func (g *generation) Close() error {
	left, last := g.door.leave(g)
	if !left {
		return nil
	}
	if !g.socket.shared {
		for _, c := range queued(g.socket) {
			g.door.receive(c)
		}
	}
	err := g.door.release(g, last)
	if last {
		go g.door.finish(g)
	}
	return err
}

// begin has the generation's server serve c, on which something was sent already. It reports false if it serves no more; then c is as it
// was.
func (g *generation) begin(c net.Conn, s *server) bool {
	if g.toCaddy {
		wrapped, err := g.wrappers.wrapBefore(c)
		if err != nil {
			return true // refused and closed
		}
		select {
		case g.handed <- wrapped:
			return true
		case <-g.closed:
			return false
		}
	}
	wrapped, err := g.wrappers.wrap(c)
	return err != nil || s.put(wrapped, g.site != nil && g.wrappers.none())
}
