package listener

import (
	"crypto/tls"
	"net"
	"net/http"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/listener/lane"
)

// generation describes how one config serves the connections of a door. To Caddy it is the listener of the config's server.
type generation struct {
	door      *door
	ln        net.Listener // that Caddy has opened for this config
	socket    socket       // beneath ln
	handler   http.Handler
	wrappers  wrappers
	keepAlive net.KeepAliveConfig
	shape     shape
	choose    func(*tls.ClientHelloInfo) (*tls.Config, error) // nil if connections are not encrypted
	settled   <-chan struct{}                                 // closed when the config is ready to serve
	grace     caddy.Duration
	logger    *zap.Logger
	stdlib    *zap.Logger // for errors of net/http
	site      *lane.Site  // of the express lane; nil if there is none

	toCaddy bool          // connections are passed to Caddy's server, which calls Accept, instead of to ours
	handed  chan net.Conn // the connections passed to it

	closed chan struct{}
}

// policies wraps the function for tls.Config.GetConfigForClient of g's server: it calls that of the generation that serves when the
// ClientHello arrives, because the certificates of an earlier one may have been removed.
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

// begin makes the generation's server serve c, on which the client has sent something. It reports false if that server takes no connections
// any more; c is unchanged then.
func (g *generation) begin(c net.Conn, s *server) bool {
	if g.toCaddy {
		wrapped, err := g.wrappers.wrapBefore(c)
		if err != nil {
			return true // a wrapper refused and closed it
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
