// Package mirror sends copies of requests to other systems, and discards their answers. It selects the requests to copy and the upstreams,
// limits the number of copies and their time, and reports when an upstream stops answering. Requests do not wait for their copies, and a
// copy shares nothing with its request.
package mirror
