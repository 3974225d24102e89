// Package pool holds the live state of load-balanced pools: the members with their counts of requests in
// flight, and, for every handler that uses a pool, a view with an immutable snapshot of the members that may
// be picked.
//
// Three lifetimes meet here:
//
//   - A [Pool] outlives configs. A [Registry] hands out the same Pool for the same name for as long as some
//     config holds it, so counts survive a reload.
//   - A [View] belongs to one handler of one config: its backends, weights and policy. During a reload two
//     views see the same members, each with its own snapshot.
//   - A [Lease] is one request on one member. It outlives the view that granted it, when a config is
//     unloaded under the request.
//
// The package knows neither Caddy nor HTTP. Proxying and probing are done elsewhere and reported here: the results of
// active checks to an [Observer], the outcomes of attempts to [Lease.Judge]. A view applies its [Settings] to these
// reports, and the result is its next [Snapshot].
package pool
