// Package listener has the listener wrapper seamless, which prevents lost requests when the config is reloaded or Caddy stops.
//
// Caddy gives each config a server and sockets of its own. When a config stops, its server closes the connections that are idle at that
// moment, even if a request is on its way, and the kernel resets those in the accept queue of its socket. With seamless, sockets and
// connections belong to a [door] instead, one for each listen address, which outlives the configs:
//
//   - The door keeps the first socket of its address and makes the kernel send all connections there. Its accept queue is never closed.
//   - It waits for a connection's first byte before it does anything else, without a goroutine.
//   - It then passes the connection through the listener wrappers and TLS settings of the config that serves, to an HTTP server of its
//     own. That server passes each request to the config that serves at that time, so connections need not be closed at a reload.
//
// A config begins to serve when Caddy stops the config before, which is when it is certain that the new one will not be given up.
package listener
