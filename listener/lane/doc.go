// Package lane serves the connections of the express lane. It is an HTTP/1.1 server that parses requests in place, and passes their lines
// on to a backend and the answer's lines to the client. It serves plain requests to load balancers; the first request of a connection that
// is not plain is handed over, with all bytes that were read and all that follow, to a server that knows all of HTTP.
//
// Backends are chosen by the same code as in Caddy's handler: packages exchange and course.
package lane
