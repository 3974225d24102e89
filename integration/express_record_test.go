package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// recorder is a backend that notes every request, and reads them to the letter of RFC 9112: what another parser might take for something
// else is strange.
type recorder struct {
	address string

	mu       sync.Mutex
	complete map[string][]string // requests by their mark
	begun    map[string][]string // those that were given up
	strange  map[string]bool     // those without a mark as well
}

// mark is what requests have in their paths to tell one exchange from another. The text of an exchange has unmarked there.
var mark = regexp.MustCompile(`x\d{6}`)

const unmarked = "x000000"

func startRecorder(t *testing.T) *recorder {
	t.Helper()
	r := &recorder{complete: map[string][]string{}, begun: map[string][]string{}, strange: map[string]bool{}}
	r.address = startRaw(t, func(conn *net.TCPConn) {
		br := bufio.NewReader(conn)
		for r.serve(conn, br) { // bound: the test's end
		}
	})
	return r
}

// serve takes a request, and reports whether the connection goes on.
func (r *recorder) serve(conn *net.TCPConn, br *bufio.Reader) bool {
	if _, err := br.Peek(1); err != nil {
		return false
	}
	head, err := readMessageHead(br)
	id := mark.FindString(head)
	if id == "" || err == nil && !plainHead(head) {
		r.note(head)
		return false
	}
	if err != nil {
		r.keep(r.begun, id, head)
		return false
	}
	line, _, _ := strings.Cut(head, "\r\n")
	_, path, _ := strings.Cut(line, " ")
	path, _, _ = strings.Cut(path, " ")
	say := func(more string) bool {
		text := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n%sContent-Length: %d\r\n\r\n", more, len(path))
		if !strings.HasPrefix(head, "HEAD ") {
			text += path
		}
		_, err := io.WriteString(conn, text)
		return err == nil
	}
	early := strings.Contains(path, "/early")
	if closes := strings.HasSuffix(path, "/early-close"); early {
		more := ""
		if closes {
			more = "Connection: close\r\n"
		}
		r.keep(r.complete, id, head) // its body may be given up
		if !say(more) || closes {
			return false
		}
	}
	body, err := readPlainBody(br, head)
	switch {
	case early:
		return err == nil
	case err != nil && strings.HasPrefix(err.Error(), "strange"):
		r.note(head + body + err.Error())
		return false
	case err != nil:
		r.keep(r.begun, id, head)
		return false
	}
	r.keep(r.complete, id, head+body)
	return say("")
}

// note notes what is strange.
func (r *recorder) note(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.strange[r.normal(text)] = true
}

// keep keeps a request.
func (r *recorder) keep(in map[string][]string, id, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	in[id] = append(in[id], r.normal(text))
}

// normal takes out of a request what differs from one exchange to the next, or from one side to another.
func (r *recorder) normal(text string) string {
	return strings.ReplaceAll(mark.ReplaceAllString(sortFields(text), unmarked), r.address, "BACKEND")
}

// requests are the complete ones with that mark, in no order.
func (r *recorder) requests(id string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(slices.Values(r.complete[id]))
}

var (
	plainLine  = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+ [^\\x00-\\x20\\x7f]+ HTTP/1\\.1\r\n$")
	plainField = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\\x00-\\x08\\x0a-\\x1f\\x7f]*\r\n$")
	plainSize  = regexp.MustCompile("^[0-9a-f]{1,8}\r\n$")
	plainCount = regexp.MustCompile("^[0-9]{1,9}$")
)

// plainHead reports whether no parser could read the head in another way.
func plainHead(head string) bool {
	fields := 0
	for line := range strings.Lines(head) {
		switch {
		case fields == 0:
			if !plainLine.MatchString(line) {
				return false
			}
		case line == "\r\n":
		case !plainField.MatchString(line):
			return false
		}
		fields++
	}
	lengths, codings := fieldValues(head, "Content-Length"), fieldValues(head, "Transfer-Encoding")
	switch {
	case len(fieldValues(head, "Host")) != 1, len(lengths)+len(codings) > 1:
		return false
	case len(lengths) == 1:
		return plainCount.MatchString(lengths[0])
	case len(codings) == 1:
		return codings[0] == "chunked"
	}
	return true
}

// readPlainBody reads the body of a request, and returns its bytes and trailers.
func readPlainBody(br *bufio.Reader, head string) (string, error) {
	if len(fieldValues(head, "Transfer-Encoding")) == 0 {
		length := 0
		if values := fieldValues(head, "Content-Length"); len(values) > 0 {
			if _, err := fmt.Sscan(values[0], &length); err != nil {
				return "", err
			}
		}
		body := make([]byte, length)
		n, err := io.ReadFull(br, body)
		return string(body[:n]), err
	}
	var body strings.Builder
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return body.String(), err
		}
		if !plainSize.MatchString(line) {
			return body.String(), fmt.Errorf("strange size of a chunk: %q", line)
		}
		var size int
		if _, err := fmt.Sscanf(line, "%x", &size); err != nil {
			return body.String(), err
		}
		if size == 0 {
			trailers, err := readMessageHead(br)
			if err == nil && trailers != "\r\n" && !plainHead("GET / HTTP/1.1\r\nHost: a\r\n"+trailers) {
				err = fmt.Errorf("strange trailers: %q", trailers)
			}
			body.WriteString("[trailers] " + trailers)
			return body.String(), err
		}
		chunk := make([]byte, size+2)
		n, err := io.ReadFull(br, chunk)
		body.Write(chunk[:min(n, size)])
		if err != nil {
			return body.String(), err
		}
		if string(chunk[size:]) != "\r\n" {
			return body.String(), fmt.Errorf("strange end of a chunk: %q", chunk[size:])
		}
	}
}

// marked is a client of a recorder: it sends a text with a mark of its own, cut in two, and reads answers until the server closes the
// connection.
type marked struct {
	site, id, text string
	cut            int // 0 for whole
}

var answerOf = regexp.MustCompile(`HTTP/1\.[01] (\d{3})|(x\d{6})/([a-z-]+)`)

// send returns the statuses and the paths of the answers, in order.
func (m marked) send() (string, error) {
	conn, err := net.Dial("tcp", m.site)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(differentialPatience))
	over := make(chan struct{})
	var came []byte
	var ended error
	go func() {
		defer close(over)
		came, ended = io.ReadAll(conn)
	}()
	text := strings.ReplaceAll(m.text, unmarked, m.id)
	if m.cut > 0 {
		if _, err := io.WriteString(conn, text[:m.cut]); err == nil {
			q, err := openQueue()
			if err != nil {
				return "", err
			}
			defer q.close()
			if ok, err := q.readBy(conn, m.cut, over); err != nil {
				return "", err
			} else if !ok {
				return "", fmt.Errorf("the server has not read the first %d bytes", m.cut)
			}
		}
	}
	_, _ = io.WriteString(conn, text[m.cut:]) // it may have closed the connection
	<-over
	var seen []string
	for _, found := range answerOf.FindAllStringSubmatch(string(came), -1) {
		switch {
		case found[1] != "":
			seen = append(seen, found[1])
		case found[2] != m.id:
			return "", fmt.Errorf("%s got an answer of %s: %q", m.id, found[2], came)
		default:
			seen = append(seen, "/"+found[3])
		}
	}
	if ended != nil && broken(ended) == timedOut {
		return "", fmt.Errorf("not closed within %v: %q", differentialPatience, came)
	}
	return strings.Join(seen, " "), nil
}
