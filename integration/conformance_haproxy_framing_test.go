//go:build trust

package integration

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
)

// wired is what a client and a backend have seen of one request.
type wired struct {
	s    *scene
	near *near
	far  *farEnds
	nearAnswer
	err error
}

// wire is a scenario of one request, as it is on the wire, and one answer. What is wanted of an answer is looked at on the same
// connection.
func wire(file, name, sent, answered string, want func(w wired) error) scenario {
	return scenario{name, file, func(s *scene) error {
		w := wired{s: s, far: s.backend(says(answered))}
		w.near = s.dial(s.start("PROXY " + w.far.addr))
		w.nearAnswer, w.err = w.near.ask(sent)
		return want(w)
	}}
}

// delivered wants the answer "ok" to a request with that body.
func delivered(body string) func(w wired) error {
	return func(w wired) error {
		r, err := w.far.only()
		switch {
		case w.err != nil:
			return w.err
		case err != nil:
			return err
		case r.body != body:
			return fmt.Errorf("the backend got the body %q", r.body)
		}
		return w.wants(http.StatusOK, "ok")
	}
}

// refusedWith wants one of these statuses, and nothing at the backend.
func refusedWith(statuses ...int) func(w wired) error {
	return func(w wired) error {
		if w.err != nil {
			return w.err
		}
		if !slices.Contains(statuses, w.status) {
			return fmt.Errorf("status %d; the backend got %s", w.status, w.far.lines())
		}
		if got := w.far.lines(); got != "nothing" {
			return fmt.Errorf("the backend got %s", got)
		}
		return nil
	}
}

// fails wants an answer that says the backend is at fault.
func fails(w wired) error {
	if w.err != nil {
		return w.err
	}
	if w.status != http.StatusBadGateway {
		return fmt.Errorf("status %d, body %q", w.status, w.body)
	}
	return nil
}

// field wants a field to arrive with that value.
func field(name, value string) func(w wired) error {
	return func(w wired) error {
		r, err := w.far.only()
		if err != nil {
			return err
		}
		if r.field(name) != value {
			return fmt.Errorf("%s is %q", name, r.field(name))
		}
		return w.wants(http.StatusOK, "ok")
	}
}

// thenClosed wants what want wants, and the connection to end.
func thenClosed(want func(w wired) error) func(w wired) error {
	return func(w wired) error {
		return errors.Join(want(w), w.near.ended())
	}
}

// chunked is an answer of these fields with an empty body in chunks.
func chunked(version string, fields ...string) string {
	return version + " 200 OK\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n0\r\n\r\n"
}

// framingScenarios are about where messages begin and end.
func framingScenarios() []scenario {
	const h1 = "http-messaging/h1_to_h1.vtc"
	const codings = "http-messaging/http_transfer_encoding.vtc"
	const bodyless = "http-messaging/http_bodyless_response.vtc"
	const buffer = "http-messaging/http_request_buffer.vtc"
	const anyway = "this must arrive, whatever the method"
	ok := textAnswer("ok")
	const empty, size = "0\r\n\r\n", "Transfer-Encoding: chunked"
	return []scenario{
		wire(h1, "a GET brings its body", request("GET /a", fmt.Sprint("Content-Length: ", len(anyway)))+anyway, ok, delivered(anyway)),
		wire(h1, "a GET may say that it has no body", request("GET /a", "Content-Length: 0"), ok, delivered("")),
		wire(h1, "a POST may have no body", request("POST /a", "Content-Length: 0"), ok, delivered("")),
		wire(h1, "a POST without a length has no body", request("POST /a"), ok, delivered("")),
		wire(h1, "a POST brings its body", request("POST /a", "Content-Length: 4")+"sent", ok, delivered("sent")),
		wire(h1, "what follows the last request of a connection is dropped", request("GET /a", "Content-Length: 0", "Connection: close")+"not sent\r\n\r\n", ok,
			thenClosed(delivered(""))),
		wire(h1, "a HEAD has an answer without a body, and may have one itself", request("HEAD /a", "Content-Length: 4")+"sent",
			"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n", func(w wired) error {
				return errors.Join(w.err, w.wants(http.StatusOK, ""))
			}),
		wire(h1, "a length that ends in a comma", request("GET /a", "Content-Length: 0,", "Connection: close"), ok, thenClosed(refusedWith(400))),
		wire(h1, "a length that is empty", request("GET /a", "Content-Length:", "Connection: close"), ok, thenClosed(refusedWith(400))),
		{"requests of all kinds share a connection", h1, sharedConnection},

		wire(codings, "with both chunks and a length, the chunks count, and the connection ends", request("POST /a", size, "Content-Length: 31")+empty+"GET /smuggled HTTP/1.1\r\nHost: hostname\r\n\r\n", ok,
			thenClosed(func(w wired) error {
				r, _ := w.far.only()
				if r.field("Content-Length") != "" && r.field("Transfer-Encoding") != "" {
					return fmt.Errorf("the backend got both: %q", r.head)
				}
				return delivered("")(w)
			})),
		wire(codings, "chunks in HTTP/1.0", "POST /a HTTP/1.0\r\nHost: hostname\r\n"+size+"\r\n\r\n"+empty, ok, thenClosed(delivered(""))),
		wire(codings, "an answer in chunks that is HTTP/1.0", request("GET /a"), chunked("HTTP/1.0", size, "Connection: close"), func(w wired) error {
			return errors.Join(w.err, w.wants(http.StatusOK, ""))
		}),
		wire(codings, "an answer with both chunks and a length", request("GET /a", "Connection: close"), chunked("HTTP/1.1", size, "Content-Length: 30")+"split", func(w wired) error {
			if length := w.header.Get("Content-Length"); length != "" && length != "0" {
				return fmt.Errorf("the client got the length %s", length)
			}
			return errors.Join(w.err, w.wants(http.StatusOK, ""), w.near.ended())
		}),
		wire(codings, "TE: trailers arrives, without what else it had", request("GET /a", "TE: trailers, gzip"), ok, field("TE", "trailers")),
		wire(codings, "TE: gzip does not arrive", request("GET /a", "TE: gzip"), ok, field("TE", "")),
		wire(codings, "TE: trailers;q=0.5 does not arrive", request("GET /a", "TE: trailers;q=0.5"), ok, field("TE", "")),
		wire(codings, "chunked, chunked", request("GET /a", "Transfer-Encoding: chunked, chunked")+empty, ok, refusedWith(400, 501)),
		wire(codings, "chunked, gzip, chunked", request("GET /a", "Transfer-Encoding: chunked, gzip, chunked")+empty, ok, refusedWith(400, 501)),
		wire(codings, "chunked, gzip", request("GET /a", "Transfer-Encoding: chunked, gzip")+empty, ok, refusedWith(400, 501)),
		wire(codings, "gzip", request("GET /a", "Transfer-Encoding: gzip"), ok, refusedWith(400, 501)),
		wire(codings, "gzip, chunked", request("GET /a", "Transfer-Encoding: gzip, chunked")+empty, ok, refusedWith(422, 501)),
		wire(codings, "an answer: chunked, chunked", request("GET /a"), chunked("HTTP/1.1", "Transfer-Encoding: chunked, chunked"), fails),
		wire(codings, "an answer: chunked, gzip, chunked", request("GET /a"), chunked("HTTP/1.1", "Transfer-Encoding: chunked, gzip, chunked"), fails),
		wire(codings, "an answer: chunked, gzip", request("GET /a"), chunked("HTTP/1.1", "Transfer-Encoding: chunked, gzip"), fails),
		wire(codings, "an answer: gzip", request("GET /a"), chunked("HTTP/1.1", "Transfer-Encoding: gzip", "Content-Length: 5"), fails),

		{"a HEAD that is sent on as a GET has an answer without a body", bodyless, func(s *scene) error {
			return bodylessAnswers(s, textAnswer("skipped"), textAnswer(strings.Repeat("x", 50000)))
		}},
		{"a HEAD that is sent on as a GET has an answer without chunks", bodyless, func(s *scene) error {
			return bodylessAnswers(s, chunked("HTTP/1.1", size)[:len(chunked("HTTP/1.1", size))-5]+fmt.Sprintf("%x\r\n%s\r\n", 4048, strings.Repeat("x", 4048))+empty)
		}},

		{"a body that stops coming is answered 408, and reaches nobody", buffer, func(s *scene) error {
			f := s.backend(says(ok))
			address := freeAddress(s.t)
			config := s.config("PROXY "+f.addr+" {\n request_buffers 64KiB\n }", anyHost(s, address))
			c := startCaddyAt(s.t, address, strings.Replace(config, "protocols h1 h2c", "protocols h1 h2c\n timeouts {\n read_body 500ms\n }", 1))
			a, err := s.askOnce(c, request("POST /a", "Content-Length: 209")+strings.Repeat("x", 208))
			return errors.Join(err, refusedWith(http.StatusRequestTimeout)(wired{far: f, nearAnswer: a}))
		}},
		{"a body in two steps, split in a chunk, arrives as a whole", buffer, func(s *scene) error {
			f := s.backend(says(ok))
			n := s.dial(s.start("PROXY " + f.addr + " {\n request_buffers 64KiB\n }"))
			_, _ = io.WriteString(n.conn, request("POST /1", size)+"1\r\n1\r\n1")
			a, err := n.ask("\r\n1\r\n" + empty)
			if err != nil {
				return err
			}
			return delivered("11")(wired{far: f, nearAnswer: a})
		}},
		{"a client that leaves before the last line of its chunks has asked for nothing", buffer, func(s *scene) error {
			f := s.backend(says(ok))
			c := s.start("PROXY " + f.addr + " {\n request_buffers 64KiB\n }")
			n := s.dial(c)
			_, _ = io.WriteString(n.conn, request("POST /2", size)+"1\r\n1\r\n1\r\n1\r\n0\r\n")
			n.conn.Close()
			// What it would have asked for would be there before what is asked later, on the one connection that there is.
			if _, err := s.askPath(c, "/3"); err != nil {
				return err
			}
			r, err := f.only()
			if err == nil && r.target() != "/3" {
				err = fmt.Errorf("the backend got %s", r.target())
			}
			return err
		}},
	}
}

// sharedConnection asks in all ways over one connection of the client.
func sharedConnection(s *scene) error {
	f := s.backend(func(r farRequest) string {
		if strings.HasPrefix(r.head, "HEAD") {
			return "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"
		}
		return textAnswer(r.target() + " " + r.body)
	})
	n := s.dial(s.start("PROXY " + f.addr))
	for i, sent := range []string{
		request("GET /0"), request("GET /1", "Content-Length: 0"), request("HEAD /2"), request("POST /3", "Content-Length: 4") + "sent",
		request("POST /4", "Transfer-Encoding: chunked") + "4\r\nsent\r\n0\r\n\r\n", request("HEAD /5", "Content-Length: 4") + "sent", request("GET /6", "Content-Length: 4") + "sent",
	} {
		a, err := n.ask(sent)
		if err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
		want := fmt.Sprintf("/%d ", i)
		if strings.HasSuffix(sent, "sent") || strings.Contains(sent, "sent\r\n") {
			want += "sent"
		}
		if strings.HasPrefix(sent, "HEAD") {
			want = ""
		}
		if err := a.wants(http.StatusOK, want); err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
	}
	return nil
}

// bodylessAnswers asks by HEAD, which is rewritten, for each of these answers, and then for one with a body over the same connection.
func bodylessAnswers(s *scene, answers ...string) error {
	f := s.backend(func(r farRequest) string {
		if r.target() == "/last" {
			return textAnswer("last")
		}
		return answers[len(strings.TrimPrefix(r.target(), "/"))]
	})
	n := s.dial(s.start("method GET\nPROXY " + f.addr))
	for i := range answers {
		a, err := n.ask(request("HEAD /" + strings.Repeat("x", i)))
		if err := errors.Join(err, a.wants(http.StatusOK, "")); err != nil {
			return err
		}
	}
	a, err := n.ask(request("GET /last"))
	return errors.Join(err, a.wants(http.StatusOK, "last"))
}
