// Package breaker decides whether a backend may be used: a circuit breaker with the states closed, open and half-open.
//
// Three decisions are separate. The caller decides whether an answer is a failure. [Breaker.Record] counts failures, in a row and in a
// [Window], and [Breaker.Due] decides when there are too many. The caller then decides with [Breaker.Trip] whether the breaker opens,
// because only the caller knows how many others are open.
//
// Admission has two steps. A request is admitted in a generation of the breaker and recorded with it; a request of an earlier generation
// is ignored. A half-open breaker grants its probe slot with [Breaker.Admit]; [Breaker.Done] releases it, or a deadline if Done is never
// called.
//
// Circuit breakers are described in M. Nygard, Release It!, 2007. Generations follow gobreaker's two-step breaker,
// the doubling of the open time and its limits Envoy's outlier detection. Unlike there a breaker that opens again does so
// for longer, whatever opened it, and good behaviour is rewarded by time rather than by requests: a backend that gets
// few requests is not punished for that.
//
// Nothing here reads a clock, draws a random number, locks or starts a goroutine. Time and chance are arguments.
package breaker
