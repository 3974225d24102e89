// Package course decides the course of one request through a load balancer: which backend gets the request, what an
// answer or a failure says about that backend, and whether another attempt follows.
//
// A [Course] is a state machine. Its caller passes in what happened and when, and gets back the next [Step]: make an
// attempt, wait, queue, give the answer, fail, refuse. A course never reads the clock, starts no goroutine and never
// blocks, so the same code can be driven by a server in real time and by a simulation in virtual time.
//
// The package knows neither Caddy nor net/http. The caller supplies a [Request], a [Source] of backends, and the
// [Facts] of each attempt as plain values.
package course
