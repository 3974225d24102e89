//go:build unix

package engine

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

const (
	serverHead = "HTTP/1.1 200 OK\r\nServer: nginx/1.26.3\r\nDate: Sat, 28 Nov 2026 12:00:00 GMT\r\nContent-Type: application/octet-stream\r\n" +
		"Content-Length: %d\r\nLast-Modified: Sat, 28 Nov 2026 11:00:00 GMT\r\nConnection: keep-alive\r\nETag: \"6929a1f0-400\"\r\n" +
		"Accept-Ranges: bytes\r\n\r\n%s"
	appHead = "HTTP/1.1 200 OK\r\ndate: Sat, 28 Nov 2026 12:00:00 GMT\r\nserver: uvicorn\r\ncontent-type: application/json\r\n" +
		"cache-control: no-store, max-age=0\r\nset-cookie: session=8f14e45fceea167a5a36dedd4bea2543; Path=/; HttpOnly\r\n" +
		"set-cookie: theme=dark; Path=/\r\nx-request-id: 0f8fad5b-d9cb-469f-a165-70867728950e\r\nvary: Accept-Encoding, Origin\r\n" +
		"strict-transport-security: max-age=31536000\r\nx-frame-options: DENY\r\ntransfer-encoding: chunked\r\n\r\n%s"
)

// stream gives the same text again and again.
type stream struct {
	text string
	at   int
}

func (s *stream) Read(p []byte) (int, error) {
	n := copy(p, s.text[s.at:])
	if s.at += n; s.at == len(s.text) {
		s.at = 0
	}
	return n, nil
}

// BenchmarkReadAnswer reads an answer to its end: the engine beside net/http.
func BenchmarkReadAnswer(b *testing.B) {
	piece := fmt.Sprintf("%x\r\n%s\r\n", 8<<10, strings.Repeat("x", 8<<10))
	for _, c := range []struct{ name, text string }{
		{"file of 1 KiB", fmt.Sprintf(serverHead, 1<<10, strings.Repeat("x", 1<<10))},
		{"file of 100 KiB", fmt.Sprintf(serverHead, 100<<10, strings.Repeat("x", 100<<10))},
		{"small chunk", fmt.Sprintf(appHead, "2\r\nok\r\n0\r\n\r\n")},
		{"chunks of 8 KiB", fmt.Sprintf(appHead, strings.Repeat(piece, 8)+"0\r\n\r\n")},
		{"not modified", "HTTP/1.1 304 Not Modified\r\nServer: nginx/1.26.3\r\nDate: Sat, 28 Nov 2026 12:00:00 GMT\r\nETag: \"6929a1f0-400\"\r\n\r\n"},
	} {
		buffer := make([]byte, 32<<10)
		b.Run(c.name+"/parser=engine", func(b *testing.B) {
			br := bufio.NewReaderSize(&stream{text: c.text}, defaultBuffer)
			b.ReportAllocs()
			for b.Loop() {
				a := new(answer)
				if err := a.readHead(br, http.MethodGet); err != nil {
					b.Fatal(err)
				}
				drain(b, &a.body.from, buffer)
			}
		})
		b.Run(c.name+"/parser=net-http", func(b *testing.B) {
			br := bufio.NewReaderSize(&stream{text: c.text}, defaultBuffer)
			r := &http.Request{Method: http.MethodGet}
			b.ReportAllocs()
			for b.Loop() {
				res, err := http.ReadResponse(br, r)
				if err != nil {
					b.Fatal(err)
				}
				drain(b, res.Body, buffer)
			}
		})
	}
}

func drain(b *testing.B, from io.Reader, buffer []byte) {
	for {
		if _, err := from.Read(buffer); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			b.Fatal(err)
		}
	}
}
