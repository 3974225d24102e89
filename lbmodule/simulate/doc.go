// Package simulate runs load balancers in virtual time: a discrete-event simulation of balancers, backends and the requests between them.
//
// Decisions are made by the code that makes them in production: package course for each request, over the pools, policies, breakers,
// queues, budgets and slow starts of package pool. Only the surroundings are a model: when requests arrive, how long backends take, and
// what happens to them. So the results are those of the real policy, as far as the model resembles the real traffic.
//
// A simulation is one goroutine that takes events from a heap, in the order of time. The same input and seed give the same result.
package simulate
