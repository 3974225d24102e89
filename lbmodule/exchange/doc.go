// Package exchange carries a request through its course in real time: it makes the attempts that a [course.Course] decides on, waits when
// the course says so, and hands the result to the client's side.
//
// It stands between a [Front], which is the client's side of a request, and a [Back], which carries one attempt to a backend. It knows
// net/http's requests and responses, but neither Caddy nor a response writer, so that any server can be its front.
package exchange
