// Package breaker decides whether a backend may be used: a circuit breaker with the states closed, open and half-open.
//
// Three things are kept apart. Whether an answer was bad is for the caller to say. How many bad ones are too many is
// counted by [Breaker.Record], over a run and a [Window], and judged by [Breaker.Due]. Whether the breaker then opens is
// again for the caller, who knows how many others are open: [Breaker.Trip].
//
// Admission has two steps. A request is admitted in a generation of the breaker and recorded with it; what began in an
// earlier one is ignored. A half-open breaker hands out its probe slot with [Breaker.Admit]; the slot comes back with
// [Breaker.Done], and by a deadline if that is never called.
//
// Circuit breakers are described in M. Nygard, Release It!, 2007. Generations follow gobreaker's two-step breaker,
// the doubling of the open time and its limits Envoy's outlier detection. Unlike there a breaker that opens again does so
// for longer, whatever opened it, and good behaviour is rewarded by time rather than by requests: a backend that gets
// few requests is not punished for that.
//
// Nothing here reads a clock, draws a random number, locks or starts a goroutine. Time and chance are arguments.
package breaker
