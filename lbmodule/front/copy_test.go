package front

import (
	"bytes"
	"io"
	"net/http/httptest"
	"testing"
)

// asked is a body that records the size of the largest buffer that it was to fill.
type asked struct {
	io.Reader
	most int
}

func (a *asked) Read(p []byte) (int, error) {
	a.most = max(a.most, len(p))
	return a.Reader.Read(p)
}

// TestBufferSizes: an answer of moderate length is read at once; the number of buffers for that is bounded.
func TestBufferSizes(t *testing.T) {
	copies := func(length int, announced bool, want int) {
		t.Helper()
		body, w := &asked{Reader: bytes.NewReader(make([]byte, length))}, httptest.NewRecorder()
		res := answer(200, body)
		if announced {
			res.ContentLength = int64(length)
		}
		if _, err := answered(t, `{}`, w, res); err != nil || w.Body.Len() != length || body.most != want {
			t.Errorf("%d bytes: %v, %d bytes, read %d at once; want %d", length, err, w.Body.Len(), body.most, want)
		}
	}
	copies(1, true, bufferSize)
	copies(bufferSize, true, bufferSize)
	copies(bufferSize+1, true, largeSize)
	copies(largeSize, true, largeSize)
	copies(largeSize+1, true, bufferSize)
	copies(largeSize, false, bufferSize)
	for range largeOnes.most {
		if !largeOnes.take() {
			t.Fatal("a place is taken by an answer that is over")
		}
	}
	for range largeOnes.most { // and none of them takes a place
		copies(largeSize, true, bufferSize)
	}
	for range largeOnes.most {
		largeOnes.leave()
	}
	copies(largeSize, true, largeSize)
}
