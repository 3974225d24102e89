// Package bucket decides whether a client may pass: a bounded table of token buckets ([rate.Limiter]), one for each
// key, with a count of the requests in flight beside it.
//
// A [Table] never holds more than so many keys, whatever clients do. It has no goroutine and no timer: keys that are
// not used any more leave when others need their room, and when [Table.Sweep] is called. Room is made by a clock hand
// (F. J. Corbató, A Paging Experiment with the Multics System, 1968) that drops full buckets first, as nothing is lost
// with them, then those that have not been used for a turn of the hand, and never one whose owner could not pass just
// now or has requests in flight. While there is nothing but such, newcomers share one bucket.
//
// The time is taken under the lock that guards a bucket. Taken before, two requests could bring it in the wrong order, and a
// limiter that is fed times that go back and forth admits everything.
package bucket
