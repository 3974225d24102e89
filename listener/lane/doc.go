// Package lane is the connections of the express lane: an HTTP/1.1 server that reads requests in place, passes their lines on to a backend,
// and the answer's lines to the client. It serves plain requests to load balancers; the first request of a connection that is not plain goes,
// with every byte that was read and all that follow, to a server that knows all of HTTP.
//
// What is decided about a request's backends is decided by the same code as in Caddy's handler: packages exchange and course.
package lane
