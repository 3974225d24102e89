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
	at      map[string]*door   // open doors, by address
	closing map[*door]struct{} // doors without a config that still have connections
}{at: make(map[string]*door), closing: make(map[*door]struct{})}

// door owns the connections to one listen address.
type door struct {
	address string
	addr    net.Addr
	main    net.Listener // the first config's socket, which is kept open
	first   socket
	silent  *silent

	// serving is the generation that serves. It stays set after the last one has left.
	serving atomic.Pointer[generation]
	// closing is set when Caddy stops: answers tell clients to close their connections.
	closing atomic.Bool

	mu          sync.Mutex
	generations []*generation // those not closed, the oldest first
	newest      *generation   // closed or not
	servers     []*server     // those with connections; the last one takes new connections
	spare       net.Listener  // of a generation that was rolled back, see [door.release]

	ending sync.WaitGroup // of servers

	ended chan struct{} // closed when no more connections are accepted
	empty chan struct{} // closed when the last connection has ended after that
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

// steer makes the kernel send all connections to the first socket, so that none is in the accept queue of a socket that a reload closes. It
// returns those that arrived at another socket meanwhile.
func (d *door) steer(g *generation) []net.Conn {
	conns, err := steer(d.first)
	if err != nil && !errors.Is(err, errNoSteering) {
		g.logger.Warn("kernel does not send all connections to one socket; a reload may lose new connections",
			zap.Stringer("address", d.addr), zap.Error(err))
	}
	return conns
}

// leave removes g when its config stops. If g serves, the generation after it takes over. It reports whether g was there, and whether it
// was the last one.
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

// yield makes the generation after g serve, if g serves and there is one.
func (d *door) yield(g *generation) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if next := slices.Index(d.generations, g) + 1; d.serving.Load() == g && next < len(d.generations) {
		d.promote(d.generations[next])
	}
}

// release closes the socket of g, which has left. Caddy opens a Unix socket for the next config by duplicating the one that it opened last,
// which fails if that one is closed. So the socket of a config that was rolled back is kept until there is a later one.
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
			s.free() // it has no connections and gets none
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

// taking returns the generation that serves, and the server that takes new connections.
func (d *door) taking() (*generation, *server) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.serving.Load(), d.servers[len(d.servers)-1]
}

// accept waits until settled is closed, serves the connections in accepted, and then accepts others from ln until it is closed.
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
		// The likely cause is too many open files. The interval grows as in net/http.
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

// deliver passes on a connection on which the client has sent something. If the serving generation changes meanwhile, the next one gets it.
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

// await waits until all doors without a config have lost their last connection, or ctx ends. It is called when a config has stopped, and
// waits for requests, including those of earlier configs, only if Caddy exits.
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
