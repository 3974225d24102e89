//go:build unix

package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// fate says what happens to the connection of an answer.
type fate bool

const (
	kept   fate = true
	closed fate = false
)

const (
	begin  = "HTTP/1.1 200 OK\r\n"
	poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
	chunks = "Transfer-Encoding: chunked\r\n"
	last   = "0\r\n\r\n"
)

// oddAnswers are the known ways in which an answer is made to be read as two, or two as one. What the client gets is the status and the
// body, or "refused", or a body that is "broken".
var oddAnswers = []struct {
	name, method, answer string
	gets                 string
	then                 fate
}{
	// lines
	{"plain", "GET", begin + "Content-Length: 2\r\n\r\nok", "200 ok", kept},
	{"LF only", "GET", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "200 ok", kept},
	{"CR in a value", "GET", begin + "X: a\rContent-Length: 0\r\nContent-Length: 2\r\n\r\nok", "refused", closed},
	{"CR before CRLF", "GET", begin + "X: a\r\r\nContent-Length: 2\r\n\r\nok", "refused", closed},
	{"CR before the empty line", "GET", begin + "Content-Length: 2\r\n\r\r\n\r\nok", "refused", closed},
	{"CR only", "GET", "HTTP/1.1 200 OK\rContent-Length: 2\r\rok", "refused", closed},
	{"CR in the reason", "GET", "HTTP/1.1 200 O\rK\r\nContent-Length: 2\r\n\r\nok", "200 ok", closed},
	{"NUL in the reason", "GET", "HTTP/1.1 200 O\x00K\r\nContent-Length: 2\r\n\r\nok", "200 ok", closed},
	{"NUL in a value", "GET", begin + "X: a\x00b\r\nContent-Length: 2\r\n\r\nok", "refused", closed},
	{"NUL in a name", "GET", begin + "X\x00: a\r\nContent-Length: 2\r\n\r\nok", "refused", closed},
	{"DEL in a value", "GET", begin + "X: a\x7fb and more\r\nContent-Length: 2\r\n\r\nok", "refused", closed},
	{"bytes above ASCII in a value", "GET", begin + "X: \xff\xe4b\xc3\xbc\xe4 \xff\r\nContent-Length: 2\r\n\r\nok", "200 ok", kept},
	{"bytes above ASCII in a name", "GET", begin + "\xc3\xbc: a\r\nContent-Length: 2\r\n\r\nok", "refused", closed},
	{"folded", "GET", begin + "X: a\r\n\t b\r\nContent-Length: 2\r\n\r\nok", "200 ok", kept},
	{"folded before the first field", "GET", begin + " X: a\r\nContent-Length: 2\r\n\r\nok", "refused", closed},
	{"folded length", "GET", begin + "Content-Length:\r\n 2\r\n\r\nok", "200 ok", closed},
	{"folded in the length", "GET", begin + "Content-Length: 2\r\n 0\r\n\r\nok", "refused", closed},
	{"folded coding", "GET", begin + "Transfer-Encoding:\r\n chunked\r\n\r\n2\r\nok\r\n" + last, "200 ok", closed},
	{"length in a fold", "GET", begin + "X: a\r\n Content-Length: 9\r\nContent-Length: 2\r\n\r\nok", "200 ok", kept},
	{"fold without text", "GET", begin + "X: a\r\n \r\nContent-Length: 2\r\n\r\nok", "200 ok", kept},
	{"colon in the fold", "GET", begin + "X\r\n : a\r\nContent-Length: 2\r\n\r\nok", "refused", closed},
	{"space before the colon of a length", "GET", begin + "Content-Length : 40\r\nContent-Length: 2\r\n\r\nok", "200 ok", closed},
	{"space before the colon of a coding", "GET", begin + "Transfer-Encoding : chunked\r\nContent-Length: 2\r\n\r\nok", "200 ok", closed},
	{"space in a name", "GET", begin + "X Y: a\r\nContent-Length: 2\r\n\r\nok", "200 ok", closed},
	{"tab before the colon", "GET", begin + "Content-Length\t: 40\r\nContent-Length: 2\r\n\r\nok", "refused", closed},
	{"no name", "GET", begin + ": a\r\nContent-Length: 2\r\n\r\nok", "refused", closed},
	{"no colon", "GET", begin + "X\r\nContent-Length: 2\r\n\r\nok", "refused", closed},

	// status
	{"no reason", "GET", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", "200 ok", kept},
	{"two spaces", "GET", "HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok", "200 ok", kept},
	{"space before the version", "GET", " HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "refused", closed},
	{"empty line before", "GET", "\r\n" + okay, "refused", closed},
	{"four digits", "GET", "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok", "refused", closed},
	{"sign", "GET", "HTTP/1.1 +99 OK\r\nContent-Length: 2\r\n\r\nok", "99 ok", closed},
	{"negative", "GET", "HTTP/1.1 -20 OK\r\nContent-Length: 2\r\n\r\nok", "refused", closed},
	{"version 0.9", "GET", "HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nok", "200 ok", closed},
	{"version 0.0", "GET", "HTTP/0.0 200 OK\r\n" + chunks + "\r\n2\r\nok\r\n" + last, "200 ok", closed},
	{"version 1.10", "GET", "HTTP/1.10 200 OK\r\nContent-Length: 2\r\n\r\nok", "refused", closed},
	{"other protocol", "GET", "ICY 200 OK\r\nContent-Length: 2\r\n\r\nok", "refused", closed},

	// length
	{"length with plus", "GET", begin + "Content-Length: +2\r\n\r\nok", "refused", closed},
	{"length with minus", "GET", begin + "Content-Length: -2\r\n\r\nok", "refused", closed},
	{"length with spaces", "GET", begin + "Content-Length: \t 2 \t\r\n\r\nok", "200 ok", kept},
	{"length with a space inside", "GET", begin + "Content-Length: 2 0\r\n\r\nok", "refused", closed},
	{"length in hexadecimal", "GET", begin + "Content-Length: 0x2\r\n\r\nok", "refused", closed},
	{"length with underscore", "GET", begin + "Content-Length: 1_0\r\n\r\nok", "refused", closed},
	{"length with zeros", "GET", begin + "Content-Length: 0002\r\n\r\nok", "200 ok", kept},
	{"no length", "GET", begin + "Content-Length: \r\n\r\nok", "refused", closed},
	{"length of 2^63", "GET", begin + "Content-Length: 9223372036854775808\r\n\r\nok", "refused", closed},
	{"list of equal lengths", "GET", begin + "Content-Length: 2, 2\r\n\r\nok", "refused", closed},
	{"list of lengths", "GET", begin + "Content-Length: 2,6\r\n\r\nok", "refused", closed},
	{"equal lengths", "GET", begin + "Content-Length: 2\r\ncontent-length: 2 \r\n\r\nok", "200 ok", kept},
	{"different lengths", "GET", begin + "Content-Length: 2\r\nContent-Length: 0\r\n\r\nok", "refused", closed},
	{"lengths of other text", "GET", begin + "Content-Length: 2\r\nContent-Length: 02\r\n\r\nok", "refused", closed},
	{"more than its length", "GET", begin + "Content-Length: 2\r\n\r\nok" + poison, "200 ok", closed},
	{"one byte more", "GET", begin + "Content-Length: 2\r\n\r\nok\n", "200 ok", closed},
	{"no body, and an answer more", "GET", begin + "Content-Length: 0\r\n\r\n" + poison, "200 ", closed},

	// chunks and length
	{"chunks", "GET", begin + chunks + "\r\n2\r\nok\r\n" + last, "200 ok", kept},
	{"chunks and length", "GET", begin + chunks + "Content-Length: 2\r\n\r\n2\r\nok\r\n" + last, "200 ok", closed},
	{"length and chunks", "GET", begin + "Content-Length: 2\r\n" + chunks + "\r\n2\r\nok\r\n" + last, "200 ok", closed},
	{"chunks and invalid length", "GET", begin + chunks + "Content-Length: x\r\n\r\n2\r\nok\r\n" + last, "refused", closed},
	{"chunks of HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n" + chunks + "\r\nok", "200 ok", closed},
	{"CHUNKED", "GET", begin + "transfer-encoding: CHUNKED\r\n\r\n2\r\nok\r\n" + last, "200 ok", kept},
	{"chunked twice", "GET", begin + "Transfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n" + last, "refused", closed},
	{"two codings", "GET", begin + chunks + chunks + "\r\n2\r\nok\r\n" + last, "refused", closed},
	{"chunked and identity", "GET", begin + chunks + "Transfer-Encoding: identity\r\n\r\n2\r\nok\r\n" + last, "refused", closed},
	{"identity", "GET", begin + "Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok", "refused", closed},
	{"gzip, chunked", "GET", begin + "Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n" + last, "refused", closed},
	{"xchunked", "GET", begin + "Transfer-Encoding: xchunked\r\nContent-Length: 2\r\n\r\nok", "refused", closed},
	{"chunked;a=b", "GET", begin + "Transfer-Encoding: chunked;a=b\r\n\r\n2\r\nok\r\n" + last, "refused", closed},
	{"quoted coding", "GET", begin + "Transfer-Encoding: \"chunked\"\r\nContent-Length: 2\r\n\r\nok", "refused", closed},
	{"comma before the coding", "GET", begin + "Transfer-Encoding: ,chunked\r\nContent-Length: 2\r\n\r\nok", "refused", closed},
	{"vertical tab before the coding", "GET", begin + "Transfer-Encoding: \x0bchunked\r\nContent-Length: 2\r\n\r\nok", "refused", closed},
	{"coding of another alphabet", "GET", begin + "Transfer-Encoding: chun\u212aed\r\nContent-Length: 2\r\n\r\nok", "refused", closed},
	{"no coding", "GET", begin + "Transfer-Encoding:\r\nContent-Length: 2\r\n\r\nok", "refused", closed},
	{"underscore", "GET", begin + "Transfer_Encoding: chunked\r\nContent-Length: 2\r\n\r\nok", "200 ok", kept},

	// chunks
	{"chunks of many sizes", "GET", begin + chunks + "\r\n1\r\no\r\n001\r\nk\r\n000\r\n\r\n", "200 ok", kept},
	{"extension", "GET", begin + chunks + "\r\n2;a=\"b\"\r\nok\r\n0;c\r\n\r\n", "200 ok", kept},
	{"space after the size", "GET", begin + chunks + "\r\n2 \t\r\nok\r\n" + last, "200 ok", kept},
	{"space before the size", "GET", begin + chunks + "\r\n 2\r\nok\r\n" + last, "200 broken", closed},
	{"space before the extension", "GET", begin + chunks + "\r\n2 ;a\r\nok\r\n" + last, "200 broken", closed},
	{"size with plus", "GET", begin + chunks + "\r\n+2\r\nok\r\n" + last, "200 broken", closed},
	{"size with minus", "GET", begin + chunks + "\r\n-2\r\nok\r\n" + last, "200 broken", closed},
	{"size with 0x", "GET", begin + chunks + "\r\n0x2\r\nok\r\n" + last, "200 broken", closed},
	{"no size", "GET", begin + chunks + "\r\n\r\nok\r\n" + last, "200 broken", closed},
	{"extension without a size", "GET", begin + chunks + "\r\n;a\r\nok\r\n" + last, "200 broken", closed},
	{"size of 2^64 and 2", "GET", begin + chunks + "\r\n10000000000000002\r\nok\r\n" + last, "200 broken", closed},
	{"size of 16 digits", "GET", begin + chunks + "\r\n0000000000000002\r\nok\r\n" + last, "200 ok", kept},
	{"size of 17 digits", "GET", begin + chunks + "\r\n00000000000000002\r\nok\r\n" + last, "200 broken", closed},
	{"LF after the size", "GET", begin + chunks + "\r\n2\nok\r\n" + last, "200 broken", closed},
	{"LF in an extension", "GET", begin + chunks + "\r\n2;a\nok\r\n" + last, "200 broken", closed},
	{"CR in an extension", "GET", begin + chunks + "\r\n2;a\rb\r\nok\r\n" + last, "200 broken", closed},
	{"LF after the data", "GET", begin + chunks + "\r\n2\r\nok\n" + last, "200 ok broken", closed},
	{"nothing after the data", "GET", begin + chunks + "\r\n2\r\nok" + last, "200 ok broken", closed},
	{"more data than its size", "GET", begin + chunks + "\r\n2\r\nokay\r\n" + last, "200 ok broken", closed},
	{"LF at the end", "GET", begin + chunks + "\r\n2\r\nok\r\n0\r\n\n", "200 ok broken", closed},
	{"no end", "GET", begin + chunks + "\r\n2\r\nok\r\n0\r\n", "200 ok broken", closed},
	{"extension that is too long", "GET", begin + chunks + "\r\n2;" + strings.Repeat("a", maxChunkLine) + "\r\nok\r\n" + last, "200 broken", closed},
	{"more extensions than data", "GET", begin + chunks + "\r\n" + strings.Repeat("1;"+strings.Repeat("a", 2000)+"\r\nx\r\n", 10) + last,
		"200 " + strings.Repeat("x", 8) + " broken", closed},
	{"trailer", "GET", begin + chunks + "\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n", "200 ok", kept},
	{"trailer with a length", "GET", begin + chunks + "\r\n2\r\nok\r\n0\r\nContent-Length: 50\r\n\r\n", "200 ok", kept},
	{"announced trailer with a length", "GET", begin + chunks + "Trailer: Content-Length\r\n\r\n2\r\nok\r\n0\r\nContent-Length: 50\r\n\r\n",
		"refused", closed},
	{"trailer that is not valid", "GET", begin + chunks + "\r\n2\r\nok\r\n0\r\nX\r\n\r\n", "200 ok broken", closed},
	{"folded trailer", "GET", begin + chunks + "\r\n2\r\nok\r\n0\r\nX: y\r\n z\r\n\r\n", "200 ok", kept},
	{"trailer that ends early", "GET", begin + chunks + "\r\n2\r\nok\r\n0\r\nX: y\n\n" + poison, "200 ok", closed},
	{"trailer that is too long", "GET", begin + chunks + "\r\n2\r\nok\r\n0\r\nX: " + strings.Repeat("y", defaultBuffer) + "\r\n\r\n",
		"200 ok broken", closed},
	{"an answer after the chunks", "GET", begin + chunks + "\r\n2\r\nok\r\n" + last + poison, "200 ok", closed},

	// answers without a body
	{"204 with a body", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\npoison", "204 ", closed},
	{"204 with chunks", "GET", "HTTP/1.1 204 No Content\r\n" + chunks + "\r\n" + last, "204 ", closed},
	{"204 with a length", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\n", "204 ", closed},
	{"204 with length 0", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "204 ", kept},
	{"304 with a length", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n", "304 ", kept},
	{"304 with a body", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\npoison", "304 ", closed},
	{"304 with chunks", "GET", "HTTP/1.1 304 Not Modified\r\n" + chunks + "\r\n" + last, "304 ", closed},
	{"answer to HEAD", "HEAD", begin + "Content-Length: 6\r\n\r\n", "200 ", kept},
	{"answer to HEAD with chunks", "HEAD", begin + chunks + "\r\n", "200 ", kept},
	{"answer to HEAD with a body", "HEAD", begin + "Content-Length: 6\r\n\r\npoison", "200 ", closed},
	{"answer to HEAD and an answer more", "HEAD", begin + "Content-Length: 0\r\n\r\n" + poison, "200 ", closed},
	{"answer to HEAD without a length", "HEAD", begin + "\r\n", "200 ", kept},
	{"hints", "GET", "HTTP/1.1 103 Early Hints\r\nContent-Length: 0\r\n\r\n" + okay, "200 ok", kept},
	{"hints with a body", "GET", "HTTP/1.1 103 Early Hints\r\nContent-Length: 6\r\n\r\npoison" + okay, "refused", closed},
	{"hints with an answer as their body", "GET", fmt.Sprintf("HTTP/1.1 103 Early Hints\r\nContent-Length: %d\r\n\r\n%s", len(okay), okay),
		"200 ok", closed},
	{"hints with chunks", "GET", "HTTP/1.1 103 Early Hints\r\n" + chunks + "\r\n" + okay, "200 ok", closed},
	{"switch of protocols", "GET", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n" + okay, "refused", closed},

	// answers that end with the connection
	{"without a length", "GET", begin + "\r\nok", "200 ok", closed},
	{"without a length, and an answer more", "GET", begin + "\r\nok" + poison, "200 ok" + poison, closed},
	{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "200 ok", closed},
	{"HTTP/1.0 that keeps", "GET", "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok", "200 ok", kept},
	{"HTTP/1.0 that keeps and closes", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\nContent-Length: 2\r\n\r\nok", "200 ok", closed},
	{"close among others", "GET", begin + "Connection: x, CLOSE\r\nContent-Length: 2\r\n\r\nok", "200 ok", closed},
	{"close on another line", "GET", begin + "Connection: keep-alive\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "200 ok", closed},
}

// got is what a client gets.
func got(ctx context.Context, rt http.RoundTripper, method string) string {
	res, err := rt.RoundTrip(request(ctx, method, "http://backend/"))
	if err != nil {
		return "refused"
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil {
		return fmt.Sprintf("%d %s", res.StatusCode, text)
	}
	if len(text) > 0 {
		text = append(text, ' ')
	}
	return fmt.Sprintf("%d %sbroken", res.StatusCode, text)
}

// One client gets an odd answer; the next one, which may be another client, never gets a byte of it.
func TestOddAnswers(t *testing.T) {
	const fine = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"
	for _, odd := range oddAnswers {
		ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("test waited too long"))
		b := newBackend(t, func(n int, p *peer) {
			if n == 1 {
				p.head()
				if p.say(odd.answer); odd.then == closed {
					return // some answers end with the connection, or should have more
				}
			}
			for p.head() != nil {
				p.say(fine)
			}
		})
		c := b.client()
		if gets := got(ctx, c, odd.method); gets != odd.gets {
			t.Errorf("%s: the client gets %q, want %q", odd.name, gets, odd.gets)
		}
		if then := fate(c.idleConns() == 1); then != odd.then {
			t.Errorf("%s: connection kept: %v, want %v", odd.name, then, odd.then)
		}
		if gets := got(ctx, c, http.MethodGet); gets != "200 fine" {
			t.Errorf("%s: the next client gets %q", odd.name, gets)
		}
		if kept := fate(b.dials() == 1); kept != odd.then {
			t.Errorf("%s: connection used again: %v, want %v", odd.name, kept, odd.then)
		}
		cancel()
		c.CloseIdleConnections()
		b.close()
	}
}

// An answer that comes before its request, after the one before has been read, is not taken for an answer to it.
func TestEarlyAnswer(t *testing.T) {
	read, said := make(chan struct{}), make(chan struct{})
	b := newBackend(t, func(n int, p *peer) {
		if p.head(); n == 1 {
			p.say(okay)
			<-read
			p.say(poison)
			close(said)
			p.head()
			return
		}
		p.say(okay)
	})
	c := b.client()
	mustGet(t, c)
	close(read)
	<-said
	mustGet(t, c)
	if b.dials() != 2 {
		t.Errorf("%d connections", b.dials())
	}
}
