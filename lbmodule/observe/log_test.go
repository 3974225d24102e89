package observe

import (
	"testing"

	"go.uber.org/zap/zapcore"
)

// discard is an encoder that keeps nothing. An encoder of its own, because zap's allocates at times.
type discard struct {
	zapcore.ObjectEncoder
	zapcore.ArrayEncoder
	fields int
}

func (d *discard) AddString(string, string)   { d.fields++ }
func (d *discard) AddInt(string, int)         { d.fields++ }
func (d *discard) AddFloat64(string, float64) { d.fields++ }
func (d *discard) AddArray(_ string, list zapcore.ArrayMarshaler) error {
	return list.MarshalLogArray(d)
}
func (d *discard) AppendObject(element zapcore.ObjectMarshaler) error {
	return element.MarshalLogObject(d)
}

// answeredBySecond returns a request that failed at its first backend and was answered by the second.
func answeredBySecond(t testing.TB) *Request {
	l := newLab(t, back{"a:1": says(503), "b:1": says(200)})
	l.observer.Name = func(address string) string { return address }
	q, _, _, err := l.do(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// The one allocation is that of the attempt, which encoders are given as an interface.
func TestLogFieldAllocatesOnce(t *testing.T) {
	q, d := answeredBySecond(t), new(discard)
	if n := testing.AllocsPerRun(1000, func() {
		d.fields = 0
		if err := q.MarshalLogObject(d); err != nil {
			t.Fatal(err)
		}
	}); n != 1 {
		t.Errorf("%v allocations, want 1", n)
	}
	if want := 4 + 2*3; d.fields != want {
		t.Errorf("%d fields, want %d", d.fields, want)
	}
}

// BenchmarkLogField is what the field of the access log costs.
func BenchmarkLogField(b *testing.B) {
	q, d := answeredBySecond(b), new(discard)
	b.ReportAllocs()
	for b.Loop() {
		if err := q.MarshalLogObject(d); err != nil {
			b.Fatal(err)
		}
	}
}
