//go:build unix

package engine

import (
	"context"
	"io"
	"net/http"
	"syscall"
	"testing"
	"time"
)

// BenchmarkExchange is a request on a kept connection, and its answer. The time of the backend, which is in this process, counts.
func BenchmarkExchange(b *testing.B) {
	for _, bench := range []struct {
		name    string
		patient bool
	}{{"patient", true}, {"prompt", false}} {
		b.Run(bench.name, func(b *testing.B) {
			c := newBackend(b, answering(okay)).client()
			template := request(b.Context(), http.MethodGet, "http://backend/x")
			call := new(Call)
			b.ReportAllocs()
			before := used(b)
			for b.Loop() {
				ctx, cancel := context.WithCancel(b.Context()) // as net/http's server makes one for each request
				*call = Call{Request: template.WithContext(ctx), Patient: bench.patient}
				res, err := c.Do(call)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, res.Body); err != nil {
					b.Fatal(err)
				}
				cancel()
			}
			b.ReportMetric(float64(used(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// used is the CPU time that this process has used.
func used(t testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
