// Package healthcheck tells whether backends are alive: what a probe is (HTTP, TCP, TLS, gRPC), when the next one is
// due ([Checker]), and what a run of results means ([State]).
//
// It knows no pools and no requests. Who wants to know how a backend is doing watches it with an [Observer].
package healthcheck
