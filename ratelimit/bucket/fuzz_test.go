package bucket

import (
	"testing"
	"time"
)

// FuzzTable interprets the bytes as operations on a table that is too small, and checks that it never exceeds its size, that all counts
// return to zero, and that a key that was told to wait is not admitted earlier, however many other keys come.
func FuzzTable(f *testing.F) {
	f.Add([]byte{1, 1, 1, 2, 3, 4, 5, 6, 7, 1, 0x20, 1, 0x40, 1, 0x81, 2, 3, 0xa0, 1, 2, 3, 0xc0, 0xe1, 1})
	f.Fuzz(func(t *testing.T, script []byte) {
		c := new(clock)
		limits := Limits{Rate: 1, Burst: 2, Concurrency: 3}
		size := 4
		table := New(limits, size, c.now)
		refusedUntil := make(map[Key]time.Time)
		var open []Grant
		for _, op := range script {
			k := address(int(op & 15))
			switch op >> 5 {
			default: // a request
				g, d := table.Take([]Key{k, address(16)}, "")
				if d.Allowed() {
					if until := refusedUntil[k]; c.now().Before(until) && !d.Overflow {
						t.Fatalf("%v admitted %v before its time", k, until.Sub(c.now()))
					}
					if open = append(open, g); len(open) > 40 {
						t.Fatalf("%d requests in flight", len(open))
					}
				} else if d.Cause == Rate && !d.Overflow {
					refusedUntil[d.Key] = c.now().Add(d.Wait)
				}
			case 3:
				c.advance(time.Duration(op&31) * 100 * time.Millisecond)
			case 4:
				if len(open) > 0 {
					i := int(op&31) % len(open)
					open[i].Release()
					open = append(open[:i], open[i+1:]...)
				}
			case 5:
				table.Sweep()
			case 6:
				size = 1 + int(op&7)
				limits.Burst = 2 + int(op&1)
				table.Configure(limits, size)
				clear(refusedUntil) // the limits may be higher now
			case 7:
				table.Forget(k)
				delete(refusedUntil, k)
			}
			if n := table.Keys(); n > size {
				t.Fatalf("%d keys, want at most %d", n, size)
			}
		}
		for i := range open {
			open[i].Release()
		}
		for _, u := range table.Busiest(100) {
			if u.InFlight != 0 || u.Tokens > float64(u.Limits.Burst) {
				t.Errorf("at the end: %+v", u)
			}
		}
	})
}
