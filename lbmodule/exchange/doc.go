// Package exchange carries a request through its course in real time: it makes the attempts that a [course.Course] decides on, waits where
// that says so, and gives the client what comes of it.
//
// It stands between a [Front], which is the client's side of a request, and a [Back], which carries one attempt to a backend. It knows
// requests and answers of net/http, but neither Caddy nor the writer of an answer, so that any server can be its front.
package exchange
