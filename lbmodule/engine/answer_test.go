//go:build unix

package engine

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

// Answers must mean what they mean to net/http: the tests here parse the same bytes with both.

// pieces returns its bytes in pieces of at most this size; 0 for all at once.
type pieces struct {
	from io.Reader
	size int
}

func (p pieces) Read(b []byte) (int, error) {
	if p.size > 0 && len(b) > p.size {
		b = b[:p.size]
	}
	return p.from.Read(b)
}

// meaning is all that an answer says, and the bytes after it.
type meaning struct {
	refused bool // the head is not valid
	head    http.Response
	body    string
	broken  bool // the body is not valid, or not whole
	trailer http.Header
	rest    string
}

func (m meaning) String() string {
	if m.refused {
		return "refused"
	}
	h := m.head
	return fmt.Sprintf("%q %d %q %d.%d %q length %d coding %q close %v announced %q body %q broken %v trailer %q nil %v rest %q", h.Status, h.StatusCode,
		h.Proto, h.ProtoMajor, h.ProtoMinor, h.Header, h.ContentLength, h.TransferEncoding, h.Close, h.Trailer, m.body, m.broken, m.trailer,
		m.trailer == nil, m.rest)
}

// finish reads the body of an answer whose head has been read, and all bytes after it.
func finish(res *http.Response, body io.Reader, br *bufio.Reader, readSize int) meaning {
	m := meaning{head: *res}
	m.head.Header, m.head.Trailer = res.Header.Clone(), res.Trailer.Clone()
	text, err := io.ReadAll(pieces{body, readSize})
	m.body, m.broken, m.trailer = string(text), err != nil, res.Trailer
	if !m.broken { // otherwise the connection is not used again
		rest, _ := io.ReadAll(br)
		m.rest = string(rest)
	}
	m.head.Body, m.head.Request = nil, nil
	return m
}

func ourMeaning(br *bufio.Reader, method string, readSize int) (meaning, bool) {
	a := new(answer)
	if err := a.readHead(br, method); err != nil {
		return meaning{refused: true}, false
	}
	return finish(&a.Response, &a.body.from, br, readSize), a.odd || a.Close
}

func theirMeaning(br *bufio.Reader, method string, readSize int) meaning {
	res, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		return meaning{refused: true}
	}
	return finish(res, res.Body, br, readSize)
}

// compare parses an answer with both.
func compare(t testing.TB, method string, text []byte, bufferSize, pieceSize, readSize int) {
	t.Helper()
	reader := func() *bufio.Reader {
		return bufio.NewReaderSize(pieces{bytes.NewReader(text), pieceSize}, bufferSize)
	}
	ours, _ := ourMeaning(reader(), method, readSize)
	theirs := theirMeaning(reader(), method, readSize)
	if !reflect.DeepEqual(ours, theirs) {
		t.Errorf("%s %q, buffer %d, pieces %d, reads %d:\n%v\nnet/http:\n%v", method, text, bufferSize, pieceSize, readSize, ours, theirs)
	}
}

var methods = []string{http.MethodGet, http.MethodHead}

func TestAnswersMeanWhatNetHTTPTakesThemFor(t *testing.T) {
	all := answers
	for _, odd := range oddAnswers {
		all = append(all, odd.answer)
	}
	for _, size := range []int{maxChunkLine - 1, maxChunkLine} {
		text := begin + chunks + "\r\n2;" + strings.Repeat("a", size-len("2;")) + "\r\nok\r\n" + last
		compare(t, http.MethodGet, []byte(text), 2*maxChunkLine, 0, 0)
	}
	for _, text := range all {
		for _, method := range methods {
			for _, bufferSize := range []int{16, 64, defaultBuffer} {
				for _, pieceSize := range []int{0, 1, 7} {
					for _, readSize := range []int{0, 1, 3} {
						compare(t, method, []byte(text), bufferSize, pieceSize, readSize)
					}
				}
			}
		}
	}
}

func FuzzAnswer(f *testing.F) {
	for i, text := range answers {
		f.Add([]byte(text), uint8(i))
	}
	for i, odd := range oddAnswers {
		f.Add([]byte(odd.answer), uint8(i))
	}
	f.Fuzz(func(t *testing.T, text []byte, how uint8) {
		method := methods[how&1]
		bufferSize := [...]int{16, 64, 256, defaultBuffer}[how>>1&3]
		pieceSize := [...]int{0, 1, 5, 40}[how>>3&3]
		readSize := [...]int{0, 1, 4, 100}[how>>5&3]
		compare(t, method, text, bufferSize, pieceSize, readSize)
	})
}

// An answer that net/http would refuse is refused as soon as there is a line that is not valid, though the backend says no more and
// leaves the connection open.
func TestNotHTTP(t *testing.T) {
	for _, text := range []string{
		"SSH-2.0-OpenSSH\r\n",
		"garbage that has spaces\r\n",
		"HTTP/1.1 200 OK\r\nno colon\r\n",
		"HTTP/1.1 200 OK\r\nX: y\r\nno colon\r\n",
		"HTTP/1.1 200 OK\r\nX: a\x00b\r\n",
		"HTTP/1.1 200 OK\r\nX: a\r\n b\x00\r\n",
		"HTTP/1.1 200 OK\r\n folded\r\n",
	} {
		b := newBackend(t, func(_ int, p *peer) {
			p.head()
			p.say(text)
			p.head()
		})
		if _, _, err := get(t, b.client()); err == nil || !strings.Contains(err.Error(), "malformed") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// The last read of a body that has arrived returns io.EOF, so that no further read is needed.
func TestLastRead(t *testing.T) {
	for _, text := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n",
	} {
		br, a, p := bufio.NewReader(strings.NewReader(text)), new(answer), make([]byte, 100)
		if err := a.readHead(br, http.MethodGet); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if n, err := a.body.from.Read(p); string(p[:n]) != "ok" || !errors.Is(err, io.EOF) {
			t.Errorf("%q: %q, %v", text, p[:n], err)
		}
	}
}

// Data is not kept back while what follows it has not arrived.
func TestDataBeforeTheEnd(t *testing.T) {
	for _, text := range []string{"2\r\nok", "2\r\nok\r\n", "2\r\nok\r\n0", "2\r\nok\r\n0\r\n", "2\r\nok\r\n0\r\n\r"} {
		r, w := io.Pipe()
		go io.WriteString(w, text)
		c := content{br: bufio.NewReader(r), form: inChunks}
		p := make([]byte, 100)
		if n, err := c.Read(p); string(p[:n]) != "ok" || err != nil {
			t.Errorf("%q: %q, %v", text, p[:n], err)
		}
		w.CloseWithError(io.EOF)
		if n, err := c.Read(p); n > 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q, at its end: %q, %v", text, p[:n], err)
		}
	}
}

// An ordinary answer takes its own memory, its text, the values, and two for the header's map.
func TestMemoryOfAnAnswer(t *testing.T) {
	text := fmt.Sprintf(serverHead, 2, "ok")
	br, p := bufio.NewReader(&stream{text: text}), make([]byte, 100)
	allocs := testing.AllocsPerRun(100, func() {
		a := new(answer)
		if err := a.readHead(br, http.MethodGet); err != nil {
			t.Fatal(err)
		}
		if n, err := a.body.from.Read(p); n != 2 || !errors.Is(err, io.EOF) {
			t.Fatal(n, err)
		}
	})
	if allocs > 5 {
		t.Errorf("%v allocations, want 5", allocs)
	}
}
