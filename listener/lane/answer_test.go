package lane

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// filled is a text of that length, of which no two parts are the same.
func filled(n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%d ", i)
	}
	return b.String()[:n]
}

// chunks is a body in chunks of that size.
func chunks(body string, size int) string {
	var b strings.Builder
	for len(body) > 0 {
		n := min(size, len(body))
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	return b.String() + "0\r\n"
}

// answering has a backend that answers each request, which has no body, with what of returns for its path, and closes the connection then.
func answering(t *testing.T, settings string, of func(path string) string) *served {
	t.Helper()
	return start(t, settings, Options{}, func(b *backend) {
		if path := b.path(); path != "" {
			b.send(of(path))
		}
	})
}

// TestAnswers: bodies and trailers come whole, in whatever form a backend sends them and however large they are, and the next answer follows.
func TestAnswers(t *testing.T) {
	sizes := []int{0, 1, writeSize - 200, moveFrom - 1, moveFrom, 1 << 20}
	heads := []int{0, writeSize - 100, 70000}
	for _, settings := range []string{"", "flush_interval -1"} {
		for form, write := range map[string]func(fields, body string) string{
			"sized": func(fields, body string) string {
				return fmt.Sprintf("HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s", fields, len(body), body)
			},
			"chunks": func(fields, body string) string {
				return "HTTP/1.1 200 OK\r\n" + fields + "Transfer-Encoding: chunked\r\n\r\n" + chunks(body, 70000) + "\r\n"
			},
			"small chunks": func(fields, body string) string {
				return "HTTP/1.1 200 OK\r\n" + fields + "Transfer-Encoding: chunked\r\nTrailer: B, A\r\n\r\n" + chunks(body, 1000) + "A: 1\r\nB: 2\r\n\r\n"
			},
			"until close": func(fields, body string) string { return "HTTP/1.1 200 OK\r\n" + fields + "\r\n" + body },
		} {
			t.Run(form+settings, func(t *testing.T) {
				var body, fields string
				s := answering(t, settings, func(string) string { return write(fields, body) })
				for _, size := range sizes {
					for _, head := range heads {
						body, fields = filled(size), ""
						if head > 0 {
							fields = "X-Long: " + filled(head)[:head-1] + "|\r\n"
						}
						c := s.dial()
						c.send(get("/") + "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
						res, got := c.receive(http.MethodGet)
						if got != body || len(res.Header.Get("X-Long")) != head {
							t.Errorf("%d bytes, head of %d: got %d bytes, which differ from byte %d on, head of %d", size, head, len(got), differ(got, body), len(res.Header.Get("X-Long")))
						}
						if res.Trailer != nil && (res.Trailer.Get("A") != "1" || res.Trailer.Get("B") != "2") || form == "small chunks" && len(res.Trailer) != 2 {
							t.Errorf("%d bytes: trailers %v", size, res.Trailer)
						}
						if res, _ := c.receive(http.MethodHead); res.StatusCode != http.StatusOK || form == "sized" && res.ContentLength != int64(size) {
							t.Errorf("%d bytes: HEAD: %d, length %d", size, res.StatusCode, res.ContentLength)
						}
						c.Close()
					}
				}
			})
		}
	}
}

func differ(a, b string) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// TestBodiless: answers without a body are followed by the next one, whatever their fields say.
func TestBodiless(t *testing.T) {
	s := answering(t, "", func(path string) string {
		switch path {
		case "/204":
			return "HTTP/1.1 204 No Content\r\nX: y\r\n\r\n"
		case "/304":
			return "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nContent-Type: a/b\r\nEtag: \"e\"\r\n\r\n"
		case "/103":
			return "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answerOf("hinted")
		default:
			return answerOf("last")
		}
	})
	c := s.dial()
	c.send(get("/204") + get("/304") + get("/103") + get("/last"))
	if res, body := c.receive(http.MethodGet); res.StatusCode != http.StatusNoContent || body != "" || res.Header.Get("X") != "y" || res.Header.Get("Content-Length") != "" {
		t.Errorf("204: got %d %q, header %v", res.StatusCode, body, res.Header)
	}
	if res, body := c.receive(http.MethodGet); res.StatusCode != http.StatusNotModified || body != "" || res.Header.Get("Etag") != `"e"` {
		t.Errorf("304: got %d %q, header %v", res.StatusCode, body, res.Header)
	}
	if res, _ := c.receive(http.MethodGet); res.StatusCode != http.StatusEarlyHints || res.Header.Get("Link") != "</a>" {
		t.Errorf("103: got %d, header %v", res.StatusCode, res.Header)
	}
	c.expect("hinted")
	c.expect("last")
}

// TestBrokenOff: of an answer that is broken off, at whichever byte, the client gets a part, or an error instead of it, and never one that
// looks whole; and its connection is closed after a part.
func TestBrokenOff(t *testing.T) {
	for _, answer := range []string{
		answerOf("0123456789"),
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n" + chunks("0123456789", 4) + "A: b\r\n\r\n",
		answerOf(filled(moveFrom + 10)),
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(filled(moveFrom), 50000) + "\r\n",
	} {
		sent := 0
		s := answering(t, "", func(path string) string {
			if path == "/next" {
				return answerOf("next")
			}
			return answer[:sent]
		})
		for ; sent < len(answer); sent += 1 + len(answer)/300 {
			c := s.dial()
			c.send(get("/") + get("/next"))
			res, err := http.ReadResponse(c.r, nil)
			if err != nil {
				t.Errorf("%d of %.60q: %v", sent, answer, err)
				continue
			}
			body, err := io.ReadAll(res.Body)
			switch {
			case res.StatusCode == http.StatusBadGateway && err == nil:
				c.expect("next")
			case err == nil:
				t.Errorf("%d of %.60q: got %d and %d bytes, as if they were all", sent, answer, res.StatusCode, len(body))
			default:
				if rest, _ := io.ReadAll(c.r); len(rest) > 0 {
					t.Errorf("%d of %.60q: behind it came %q", sent, answer, rest)
				}
			}
			c.Close()
		}
	}
}

// TestTrailersInOrder: they come in the order in which Caddy's server sends them.
func TestTrailersInOrder(t *testing.T) {
	s := answering(t, "", func(string) string {
		return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: E, B, D, A, C\r\n\r\n0\r\nE: 5\r\nB: 2\r\nD: 4\r\nA: 1\r\nC: 3\r\nA: 0\r\n\r\n"
	})
	for range 5 {
		c := s.dial()
		c.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		all, err := io.ReadAll(c.r)
		const want = "\r\n\r\n0\r\nA: 1\r\nA: 0\r\nB: 2\r\nC: 3\r\nD: 4\r\nE: 5\r\n\r\n"
		if err != nil || !strings.HasSuffix(string(all), want) {
			t.Fatalf("got %q, %v, want the end %q", all, err, want)
		}
		c.Close()
	}
}
