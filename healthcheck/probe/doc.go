// Package probe asks backends whether they are alive: it has the kinds of probes (HTTP, TCP, TLS, gRPC) and decides when the
// next one is due ([Checker]).
//
// It knows no pools and no requests. Who wants to know how a backend is doing watches it with an [Observer]; what a run of
// results means is up to that.
package probe
