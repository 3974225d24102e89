package ratelimit

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
)

// BenchmarkPass measures a request that the limit admits.
func BenchmarkPass(b *testing.B) {
	for name, s := range map[string]Settings{
		"rate":        {Rate: "1000000000/s"},
		"concurrency": {Concurrency: 10},
		"both":        {Rate: "1000000000/s", Concurrency: 10},
		"exempt":      {Rate: "1/s", Exempt: []string{"192.0.2.0/24", "2001:db8::/32"}},
		"text":        {Rate: "1000000000/s", Key: "{http.request.header.X-Key}"},
	} {
		for _, address := range []string{"192.0.2.1", "2001:db8::1"} {
			b.Run(name+"/"+address, func(b *testing.B) {
				h := handlerOf(s)
				r := requestOf(address)
				r.Header.Set("X-Key", "k")
				var w http.ResponseWriter = httptest.NewRecorder()
				b.ReportAllocs()
				for b.Loop() {
					if err := h.ServeHTTP(w, r, next); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkAdmit measures the same without an http.Request.
func BenchmarkAdmit(b *testing.B) {
	for _, text := range []string{"192.0.2.1", "2001:db8::1"} {
		b.Run(text, func(b *testing.B) {
			h := handlerOf(Settings{Rate: "1000000000/s"})
			address := netip.MustParseAddr(text)
			var a Admission
			b.ReportAllocs()
			for b.Loop() {
				if refusal := h.Admit(address, &a); refusal != nil {
					b.Fatal(refusal.Err)
				}
				a.Release()
			}
		})
	}
}
