package engine

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
)

// content reads the body of an answer from its connection. It reads no byte beyond the body, unless the body ends with the connection.
type content struct {
	br   *bufio.Reader
	form form
	left uint64 // bytes of the body, or of the chunk, that have not been read
	at   place  // in chunks

	// excess is the number of bytes in chunks that are not data, less an allowance for each chunk. It is bounded, because a chunk with one
	// byte of data may have a line of thousands of bytes.
	excess int64

	trailer *http.Header // of the answer
}

// form is how the end of a body is found.
type form uint8

const (
	empty form = iota
	byLength
	inChunks
	untilEnd // of the connection
)

// place is what comes next in a body of chunks.
type place uint8

const (
	atSize place = iota
	atData
	atDataEnd
	atTrailer
)

const (
	maxChunkLine = 4096     // bytes
	maxExcess    = 16 << 10 // bytes
)

var (
	errChunk       = errors.New("malformed chunk")
	errChunkLine   = errors.New("line of a chunk is too long")
	errExcess      = errors.New("chunks contain too much that is not data")
	errLongTrailer = errors.New("trailer is too long")
)

// Read implements [io.Reader]. The read that returns the last byte returns [io.EOF], too, if the end is known without waiting. After an
// error, Read must not be called again.
func (c *content) Read(p []byte) (n int, err error) {
	switch c.form {
	case byLength:
		if uint64(len(p)) > c.left {
			p = p[:c.left]
		}
		n, err = c.br.Read(p)
		if c.left -= uint64(n); c.left == 0 {
			return n, io.EOF
		}
		return n, unexpected(err)
	case inChunks:
		return c.readChunks(p)
	case untilEnd:
		return c.br.Read(p)
	}
	return 0, io.EOF
}

// readChunks reads data until p is full, or until it would have to wait for another chunk.
func (c *content) readChunks(p []byte) (n int, err error) {
	for {
		if n > 0 && !c.isNear() {
			return n, nil
		}
		switch c.at {
		case atSize:
			err = c.readSize()
		case atData:
			if n == len(p) {
				return n, nil
			}
			piece := p[n:]
			if uint64(len(piece)) > c.left {
				piece = piece[:c.left]
			}
			var more int
			more, err = c.br.Read(piece)
			n += more
			if c.left -= uint64(more); c.left == 0 {
				c.at = atDataEnd
			}
			err = unexpected(err)
		case atDataEnd:
			err = c.skipLineEnd()
			c.at = atSize
		case atTrailer:
			if err = c.readTrailer(); err == nil {
				err = io.EOF
			}
		}
		if err != nil {
			return n, err
		}
	}
}

// isReady reports whether the next read returns without waiting.
func (c *content) isReady() bool {
	return c.form == empty || c.br.Buffered() > 0 && (c.form != inChunks || c.isNear())
}

// isNear reports whether what comes next can be read without waiting. Data always counts as near: as in net/http, a read waits for the rest
// of a chunk rather than return a part of it.
func (c *content) isNear() bool {
	switch c.at {
	case atSize:
		there, _ := c.br.Peek(c.br.Buffered())
		return bytes.IndexByte(there, '\n') >= 0
	case atDataEnd, atTrailer:
		return c.br.Buffered() >= len("\r\n")
	}
	return true
}

// readSize reads the line before the data of a chunk.
func (c *content) readSize() error {
	line, err := c.br.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return errChunkLine
	} else if err != nil {
		return unexpected(err)
	}
	// Only CRLF ends the line, not LF; and no other CR is in it.
	if end := bytes.IndexByte(line, '\r'); end < 0 || end != len(line)-2 {
		return errChunk
	}
	if line = line[:len(line)-2]; len(line) >= maxChunkLine {
		return errChunkLine
	}
	c.excess += int64(len(line)) + 2
	line = bytes.TrimRight(line, " \t")
	if extension := bytes.IndexByte(line, ';'); extension >= 0 {
		line = line[:extension]
	}
	if c.left, err = parseSize(line); err != nil {
		return err
	}
	if c.left == 0 {
		c.at = atTrailer
		return nil
	}
	c.at = atData
	c.excess = max(0, c.excess-16-2*int64(c.left))
	if c.excess > maxExcess {
		return errExcess
	}
	return nil
}

// parseSize returns the size of a chunk.
func parseSize(text []byte) (size uint64, err error) {
	const most = 16 // digits
	if len(text) == 0 || len(text) > most {
		return 0, errChunk
	}
	for _, c := range text {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, errChunk
		}
		size = size<<4 | uint64(c)
	}
	return size, nil
}

// skipLineEnd reads the end of a chunk.
func (c *content) skipLineEnd() error {
	end, err := c.br.Peek(len("\r\n"))
	if err != nil {
		return unexpected(err)
	}
	if string(end) != "\r\n" {
		return errChunk
	}
	_, err = c.br.Discard(len(end))
	return err
}

// readTrailer reads the fields after the last chunk. They must fit into the buffer.
func (c *content) readTrailer() error {
	raw, err := c.br.Peek(len("\r\n"))
	if err != nil {
		return unexpected(err)
	}
	if string(raw) == "\r\n" {
		_, err = c.br.Discard(len(raw))
		return err
	}
	for {
		if raw, _ = c.br.Peek(c.br.Buffered()); bytes.Contains(raw, []byte("\r\n\r\n")) {
			break
		}
		_, err = c.br.Peek(len(raw) + 1)
		if errors.Is(err, bufio.ErrBufferFull) {
			return errLongTrailer
		} else if err != nil {
			return unexpected(err)
		}
	}
	fields, n, _, err := appendFields(nil, raw, 0, true)
	if err != nil {
		return err
	}
	if *c.trailer == nil {
		*c.trailer = make(http.Header, len(fields))
	}
	setTrailer(*c.trailer, string(raw[:n]), fields)
	_, err = c.br.Discard(n)
	return err
}

// setTrailer sets the fields. Several may have the same name. Announced fields are in h without a value.
func setTrailer(h http.Header, text string, fields []field) {
	values := make([]string, len(fields))
	for i, f := range fields {
		add(h, text[f.name:f.colon], values[i:i+1:i+1], text[f.value:f.end])
	}
}

// unexpected returns the error for err if it came before the end of an answer.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
