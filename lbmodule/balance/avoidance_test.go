package balance

import (
	"testing"
	"time"
)

func TestAvoidanceText(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		a    Avoidance
		want string
	}{
		{Avoidance{}, ""},
		{Avoidance{Takes: time.Second, Others: ms, Again: time.Second}, ""},
		{Avoidance{Cause: Slow, Takes: 400 * ms, Others: 500 * time.Microsecond, Again: 800 * ms}, "its answers take 400 ms, the others' 0.5 ms; tried again in 0.8 s"},
		{Avoidance{Cause: Slow, Takes: 1234 * ms, Others: 537 * time.Microsecond, Again: 1234 * ms}, "its answers take 1.2 s, the others' 0.54 ms; tried again in 1.2 s"},
		{Avoidance{Cause: Slow, Takes: 437 * ms, Others: 12345 * time.Microsecond, Again: time.Millisecond}, "its answers take 440 ms, the others' 12 ms; tried again in 0.1 s"},
		{Avoidance{Cause: Slow, Takes: 999600 * time.Microsecond, Others: 9960 * time.Microsecond, Again: 12 * time.Second}, "its answers take 1 s, the others' 10 ms; tried again in 12 s"},
		{Avoidance{Cause: Slow, Takes: 123456 * ms, Others: 99900 * ms, Again: 123456 * ms}, "its answers take 123 s, the others' 100 s; tried again in 123.5 s"},
		{Avoidance{Cause: Slow, Takes: 20 * ms, Others: 1234, Again: -time.Second}, "its answers take 20 ms, the others' 0.0012 ms; tried again with the next request"},
		{Avoidance{Cause: Slow, Takes: 20 * ms}, "its answers take 20 ms, the others' 0 ms; tried again with the next request"},
		{Avoidance{Cause: Failing, Takes: ms, Others: ms, Again: 800 * ms}, "it fails; tried again in 0.8 s"},
		{Avoidance{Cause: Failing}, "it fails; tried again with the next request"},
		{Avoidance{Cause: Silent, Takes: 3210 * ms, Again: 760 * ms}, "it has answered nothing for 3.2 s; tried again in 0.8 s"},
		{Avoidance{Cause: Silent, Takes: 321 * ms}, "it has answered nothing for 320 ms; tried again with the next request"},
	} {
		if got := test.a.String(); got != test.want {
			t.Errorf("%#v: %q, want %q", test.a, got, test.want)
		}
	}
}
