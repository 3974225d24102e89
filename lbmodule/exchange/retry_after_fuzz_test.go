package exchange

import (
	"bufio"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// FuzzRetryAfter has a backend answer with any status and fields. Retry-After counts only by being there: a 503 with it is not the backend's
// failure, whatever it says, and of other statuses it changes nothing.
func FuzzRetryAfter(f *testing.F) {
	for _, lines := range []string{
		"", "Retry-After: 5", "Retry-After:", "retry-after: Wed, 21 Oct 2015 07:28:00 GMT", "Retry-After: -1", "Retry-After: 99999999999999999999",
		"Retry-After: \t \r\nRetry-After: 5", "Retry-After : 5", "Retry-After: 5, 6", "X-Retry-After: 5", "Retry-After: \x80", "Retry_After: 5",
	} {
		for _, status := range []uint16{200, 404, 429, 500, 503, 504} {
			f.Add(status, lines)
		}
	}
	f.Fuzz(func(t *testing.T, status uint16, lines string) {
		if lines != "" {
			lines += "\r\n"
		}
		answer := func(r *http.Request) (*http.Response, error) {
			head := fmt.Sprintf("HTTP/1.1 %d \r\n%sContent-Length: 0\r\n\r\n", status, lines)
			res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(head)), r)
			if err == nil {
				res.Body = http.NoBody // whatever the fields say of one
			}
			return res, err
		}
		res, err := answer(&http.Request{Method: http.MethodGet})
		if err != nil || status < 200 || status > 599 {
			return
		}
		want := "0 ignored, 1 success, 0 failure"
		switch said := res.Header.Get("Retry-After") != ""; {
		case status == 429, status == 503 && said:
			want = "1 ignored, 0 success, 0 failure"
		case status == 502, status == 503, status == 504:
			want = "0 ignored, 0 success, 1 failure"
		}
		l := newLab(t, 2)
		l.script("a:1", answer)
		l.script("b:1", says(0, 200))
		if o := l.run(t.Context(), new(front)); o.panicked != nil || o.err != nil {
			t.Fatalf("%d %q: %v, %v", status, lines, o.err, o.panicked)
		}
		if got := l.counted("a:1"); !strings.HasPrefix(got, want+",") {
			t.Fatalf("%d %q: %s, want %s", status, lines, got, want)
		}
		l.close()
	})
}
