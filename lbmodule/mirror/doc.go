// Package mirror sends copies of requests to other systems, and throws their answers away. It decides which requests are copied and where the
// copies go, bounds how many there are and how long they take, and tells when an upstream does not answer any more. Nobody waits for a copy,
// and nothing of it belongs to the client whose request it is.
package mirror
