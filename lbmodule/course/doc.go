// Package course decides the course of one request through a load balancer: which backend is asked, what an answer or
// a failure says about that backend, and whether another attempt follows.
//
// A [Course] is a state machine. It is told what happened and when, and answers with the next [Step]: make an attempt,
// wait, queue, give the answer, fail, refuse. It never reads the clock, starts nothing and waits for nobody, so that one
// and the same code can be driven by a server in real time and by a simulation in virtual time.
//
// The package knows neither Caddy nor HTTP's types. Who drives a course gives it a [Request], a [Source] of backends
// and the facts of each attempt as plain values.
package course
