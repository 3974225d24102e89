package api

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
)

// Event is one event of the stream.
type Event struct {
	Name string
	ID   string
	Data string // JSON
}

// Stream is an open stream of events.
type Stream struct {
	body  io.ReadCloser
	lines *bufio.Scanner
}

// Events opens the stream of events. With the id of the last event that was seen, a server that remembers those after it sends
// them first.
func (c *Client) Events(ctx context.Context, last string) (*Stream, error) {
	r := Request{Method: http.MethodGet, Path: eventsPath, lastEvent: last}
	res, err := c.send(ctx, r) //nolint:bodyclose // the stream closes it
	if err != nil {
		return nil, err
	}
	return newStream(res.Body), nil
}

func newStream(body io.ReadCloser) *Stream {
	s := &Stream{body: body, lines: bufio.NewScanner(body)}
	const longest = 1 << 20
	s.lines.Buffer(nil, longest)
	return s
}

// Next waits for the next event. After the last one it returns io.EOF, and if the stream broke off, how.
func (s *Stream) Next() (Event, error) {
	var e Event
	var data []string
	for s.lines.Scan() {
		line := strings.TrimSuffix(s.lines.Text(), "\r")
		if line == "" {
			if data == nil { // a comment that keeps the connection busy, or an id alone
				e = Event{}
				continue
			}
			e.Data = strings.Join(data, "\n")
			return e, nil
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			e.Name = value
		case "id":
			e.ID = value
		case "data":
			data = append(data, value)
		}
	}
	if err := s.lines.Err(); err != nil {
		return Event{}, err
	}
	return Event{}, io.EOF
}

// Close ends the stream.
func (s *Stream) Close() { s.body.Close() }
