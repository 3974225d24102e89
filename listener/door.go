package listener

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
)

// doors are the doors of this process.
var doors = struct {
	sync.Mutex
	at      map[string]*door   // open, by address
	closing map[*door]struct{} // without a config, but with connections
}{at: make(map[string]*door), closing: make(map[*door]struct{})}

// door owns the connections that come to one listen address.
type door struct {
	address string
	addr    net.Addr
	main    net.Listener // the first config's socket, kept open
	first   socket
	silent  *silent

	// serving is the generation that serves. It stays when it was the last.
	serving atomic.Pointer[generation]
	// closing is set when Caddy stops: clients are to close their connections.
	closing atomic.Bool

	mu          sync.Mutex
	generations []*generation // not closed, the oldest first
	newest      *generation   // closed or not
	servers     []*server     // that have connections; the last is the one that takes them
	spare       net.Listener  // of a generation that was given up, see [door.release]

	ending sync.WaitGroup // of servers

	ended chan struct{} // closed when nothing more is accepted
	empty chan struct{} // closed when the last connection has gone after that
}

// join adds g to the door of its address. The first generation opens the door.
func join(g *generation, socket socket) error {
	doors.Lock()
	defer doors.Unlock()
	d := doors.at[socket.address]
	if d == nil {
		var err error
		if d, err = open(socket); err != nil {
			return err
		}
		doors.at[socket.address] = d
		g.door = d
		d.generations, d.newest = []*generation{g}, g
		d.promote(g)
		var conns []net.Conn
		if !socket.shared {
			conns = d.steer(g)
		}
		go d.accept(d.main, g.settled, conns...)
		return nil
	}
	g.door = d
	d.mu.Lock()
	d.generations = append(d.generations, g)
	d.newest = g
	spare := d.spare
	d.spare = nil
	d.mu.Unlock()
	if spare != nil {
		spare.Close()
	}
	if !socket.shared {
		go d.accept(socket, nil) // where the kernel cannot send all connections to the first socket
	}
	return nil
}

// open makes the door of a socket.
func open(s socket) (*door, error) {
	main, err := s.duplicate()
	if err != nil {
		return nil, err
	}
	d := &door{
		address: s.address,
		addr:    s.Addr(),
		first:   s,
		main:    main,
		ended:   make(chan struct{}),
		empty:   make(chan struct{}),
	}
	if d.silent, err = newSilent(d.deliver); err != nil {
		main.Close()
		return nil, err
	}
	return d, nil
}

// steer has the kernel send all connections to the first socket, so that none is in the accept queue of one that is closed at a reload. It
// returns those that came elsewhere meanwhile.
func (d *door) steer(g *generation) []net.Conn {
	conns, err := steer(d.first)
	if err != nil && !errors.Is(err, errNoSteering) {
		g.logger.Warn("kernel does not send all connections to one socket; those that are being made at a reload may be lost",
			zap.Stringer("address", d.addr), zap.Error(err))
	}
	return conns
}

// leave removes g when its config stops. If g serves, the generation after it does from now on. It reports whether g was there, and whether
// it was the last one.
func (d *door) leave(g *generation) (left, last bool) {
	doors.Lock()
	defer doors.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	at := slices.Index(d.generations, g)
	if at < 0 {
		return false, false
	}
	d.generations = slices.Delete(d.generations, at, at+1)
	if len(d.generations) == 0 {
		delete(doors.at, d.address)
		doors.closing[d] = struct{}{}
		last = true
	} else if d.serving.Load() == g {
		d.promote(d.generations[min(at, len(d.generations)-1)])
	}
	close(g.closed)
	return true, last
}

// yield has the generation after g serve, if g does and there is one.
func (d *door) yield(g *generation) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if next := slices.Index(d.generations, g) + 1; d.serving.Load() == g && next < len(d.generations) {
		d.promote(d.generations[next])
	}
}

// release closes the socket of g, which has left. Caddy opens a Unix socket for the next config by duplicating the one that it has opened
// last, and cannot if that one is closed already. So that of a config that was given up is kept until there is a later one.
func (d *door) release(g *generation, last bool) error {
	d.mu.Lock()
	var spare net.Listener
	if last {
		spare = d.spare
	} else if g == d.newest && strings.HasPrefix(g.socket.network, "unix") {
		d.spare = g.ln
		d.mu.Unlock()
		return nil
	}
	d.mu.Unlock()
	if spare != nil {
		spare.Close()
	}
	return g.ln.Close()
}

// promote makes g the generation that serves. The caller holds d.mu, or d is new.
func (d *door) promote(g *generation) {
	var last *server
	if n := len(d.servers); n > 0 {
		last = d.servers[n-1]
	}
	kept := d.servers[:0:0]
	for _, s := range d.servers {
		switch {
		case !g.shape.trusts(s.shape):
			s.last.Store(d.serving.Load())
			d.ending.Go(func() { d.retire(s, g.grace) })
		case s.open.Load() > 0 || s == last:
			kept = append(kept, s)
		default:
			s.free() // it has no connections and takes none
		}
	}
	if last == nil || last.shape != g.shape {
		kept = append(kept, newServer(d, g.shape))
	}
	d.servers = kept
	d.serving.Store(g)
	if last != nil && last != kept[len(kept)-1] {
		last.full.Store(true)
	}
}

// taking returns the generation that serves, and the server that takes its connections.
func (d *door) taking() (*generation, *server) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.serving.Load(), d.servers[len(d.servers)-1]
}

// accept accepts connections from ln until it is closed, once settled is closed. Those in accepted are accepted already.
func (d *door) accept(ln net.Listener, settled <-chan struct{}, accepted ...net.Conn) {
	if settled != nil {
		select {
		case <-settled:
		case <-d.ended:
			return
		}
	}
	for _, c := range accepted {
		d.receive(c)
	}
	var pause time.Duration
	for {
		c, err := ln.Accept()
		if err == nil {
			pause = 0
			d.receive(c)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		// Most likely there are too many open files. The interval grows as in net/http.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		d.serving.Load().logger.Error("accepting connection", zap.Stringer("address", d.addr), zap.Error(err), zap.Duration("again_in", pause))
		select {
		case <-time.After(pause):
		case <-d.ended:
			return
		}
	}
}

// receive waits for the first byte of a connection.
func (d *door) receive(c net.Conn) {
	g := d.serving.Load()
	if tcp, ok := c.(*net.TCPConn); ok && g.keepAlive != (net.KeepAliveConfig{Enable: true}) {
		_ = tcp.SetKeepAliveConfig(g.keepAlive)
	}
	d.silent.add(c, g.shape.readHeaderTimeout)
}

// deliver passes on a connection on which something was sent. When the generation that serves changes meanwhile, the next one gets it.
func (d *door) deliver(c net.Conn) {
	g, s := d.taking()
	for !g.begin(c, s) {
		before, last := g, s
		if g, s = d.taking(); g == before && s == last { // the door is closed
			c.Close()
			return
		}
	}
}

// await waits until all doors without a config have lost their last connection, or ctx ends. Caddy calls it when a config has stopped, and
// waits for requests, also for those of earlier configs, only if it exits.
func await(ctx context.Context) error {
	if !caddy.Exiting() {
		return nil
	}
	doors.Lock()
	closing := slices.Collect(maps.Keys(doors.closing))
	doors.Unlock()
	for _, d := range closing {
		select {
		case <-d.empty:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
