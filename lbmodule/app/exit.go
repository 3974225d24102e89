package app

import (
	"context"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/manage"
)

// exitWait bounds how long the process waits at its exit for the streams to end. Each ends earlier, whatever its peers do.
const exitWait = 7 * time.Second

func init() {
	// This is after all servers have stopped. They do not wait for connections that were hijacked.
	caddy.OnExit(func(context.Context) {
		manage.EndStreams()
		const poll = 5 * time.Millisecond
		for deadline := time.Now().Add(exitWait); manage.Streams() > 0 && time.Now().Before(deadline); {
			time.Sleep(poll)
		}
	})
}

// EndStreamsWith makes all streams end when the process exits and the server that is being provisioned with ctx stops accepting
// connections, which is after the shutdown delay. The server waits for streams of HTTP/2 and HTTP/3.
func (a *App) EndStreamsWith(ctx caddy.Context) {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if slices.Contains(a.servers, server) {
		return
	}
	a.servers = append(a.servers, server)
	server.RegisterOnShutdown(func() {
		if caddy.Exiting() {
			manage.EndStreams()
		}
	})
}

// endsStreams reports whether a server of a's config ends the streams. It is false if a is nil.
func (a *App) endsStreams() bool {
	if a == nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.servers) > 0
}

// exitPoll is the interval at which WatchExit checks whether the process is exiting.
const exitPoll = 100 * time.Millisecond

// WatchExit ends the streams when the process exits, as long as the config that serves has no load balancer whose server would do so. It
// must be called when that may be the case and there may be streams. The process waits for earlier servers, and those wait for their
// streams of HTTP/2 and HTTP/3.
func WatchExit() {
	switch {
	case serving.Latest().endsStreams() || manage.Streams() == 0:
	case caddy.Exiting():
		manage.EndStreams()
	default:
		time.AfterFunc(exitPoll, WatchExit)
	}
}
