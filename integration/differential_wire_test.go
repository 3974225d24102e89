package integration

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
)

// How messages are read from the wire and recorded: as they were there, but for where chunks of a body begin and end, which depends on
// time.

// timedOut stands in the transcript where an end has waited in vain.
const timedOut = "[timed out]"

// broken describes the end of a connection.
func broken(err error) string {
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return timedOut
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "[reset]"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return "[closed]"
	}
	return "[" + err.Error() + "]"
}

// showBody is a body in a transcript.
func showBody(body []byte) string {
	if len(body) <= 300 {
		return strconv.Quote(string(body))
	}
	return fmt.Sprintf("%q... %d bytes, SHA-256 %x", body[:40], len(body), sha256.Sum256(body))
}

// showUnpacked is a body in a transcript that was packed on its way. Where its packer has flushed depends on time.
func showUnpacked(body []byte) string {
	r, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return showBody(body)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return showBody(body)
	}
	return "unpacked " + showBody(text)
}

// readMessageHead reads the head of a message as it is.
func readMessageHead(br *bufio.Reader) (string, error) {
	var head strings.Builder
	for {
		line, err := br.ReadString('\n')
		head.WriteString(line)
		if err != nil || line == "\r\n" || line == "\n" {
			return head.String(), err
		}
	}
}

// fieldValues are the values of a field in a head.
func fieldValues(head, name string) (values []string) {
	for line := range strings.Lines(head) {
		if field, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(field, name) {
			values = append(values, strings.TrimSpace(value))
		}
	}
	return values
}

// readMessageBody reads a body whose framing the head tells, and describes it. A message without framing ends with the connection, or
// has no body. It tells of bytes as they come.
func readMessageBody(br *bufio.Reader, head string, toTheEnd bool, show func(body []byte) string, came func(n int)) (string, error) {
	length := int64(-1)
	if values := fieldValues(head, "Content-Length"); len(values) > 0 {
		length, _ = strconv.ParseInt(values[0], 10, 64)
	}
	switch {
	case len(fieldValues(head, "Transfer-Encoding")) > 0:
		body, rest, err := readChunks(br, came)
		text := "[chunks] " + show(body) + "\n" + rest
		if err != nil {
			text += "[in the chunks] " + broken(err) + "\n"
		}
		return text, err
	case length >= 0:
		body, err := readSome(io.LimitReader(br, length), came)
		text := "[body] " + show(body) + "\n"
		if err == nil && int64(len(body)) < length {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			text += "[in the body] " + broken(err) + "\n"
		}
		return text, err
	case toTheEnd:
		body, err := readSome(br, came)
		text := "[to the end] " + show(body) + "\n"
		if err != nil {
			text += broken(err) + "\n"
		}
		return text, io.EOF
	}
	return "", nil
}

func readSome(r io.Reader, came func(n int)) (body []byte, err error) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		body = append(body, buf[:n]...)
		came(n)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return body, err
		}
	}
}

// readChunks reads a body in chunks: the bytes, and as text what else there was, which is extensions and trailers.
func readChunks(br *bufio.Reader, came func(n int)) (body []byte, rest string, err error) {
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return body, rest, noEOF(err)
		}
		size, extension, extended := strings.Cut(strings.TrimRight(line, "\r\n"), ";")
		if extended {
			rest += "[extension] " + extension + "\n"
		}
		n, err := strconv.ParseInt(strings.TrimSpace(size), 16, 64)
		if err != nil {
			return body, rest, fmt.Errorf("chunk size %q", size)
		}
		if n == 0 {
			trailers, err := readMessageHead(br)
			if trailers != "\r\n" {
				rest += "[trailers]\n" + trailers
			}
			return body, rest, noEOF(err)
		}
		chunk, err := readSome(io.LimitReader(br, n), came)
		body = append(body, chunk...)
		if err != nil || int64(len(chunk)) < n {
			return body, rest, noEOF(err)
		}
		if end, err := br.ReadString('\n'); err != nil || end != "\r\n" {
			return body, rest, fmt.Errorf("%q after a chunk", end)
		}
	}
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
