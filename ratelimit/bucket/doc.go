// Package bucket decides whether a client's request may pass: a bounded table of token buckets ([rate.Limiter]), one for each key, with a
// count of the requests in flight.
//
// A [Table] never holds more than its maximum of keys, whatever clients do. It has no goroutine and no timer: idle keys are removed when
// others need their room, and by [Table.Sweep]. A clock hand (F. J. Corbató, A Paging Experiment with the Multics System, 1968) makes room.
// It evicts full buckets first, as that loses no state, then keys that were not used for a turn of the hand, and never a key that would be
// refused just now or has requests in flight. While all keys are such, new keys share one bucket.
//
// The time is read under the lock that guards a bucket. If it were read before, two requests could apply their times in the wrong order,
// and a limiter that gets times that go back and forth admits everything.
package bucket
