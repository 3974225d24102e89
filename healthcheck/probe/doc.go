// Package probe probes backends: it has the kinds of probes (HTTP, TCP, TLS, gRPC) and decides when the next one is due ([Checker]).
//
// It knows neither pools nor requests. Callers watch a backend with an [Observer], which decides what the results mean.
package probe
