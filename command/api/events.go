package api

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
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

// EventQuery selects events.
type EventQuery struct {
	Pool     string // "" for all
	Latest   int    // how many of the stored events come first
	After    string // id of the last event that was seen: the stored events after it come first, instead of the latest
	NoFollow bool   // the stream ends after the stored events
}

// Events opens the stream of events.
func (c *Client) Events(ctx context.Context, q EventQuery) (*Stream, error) {
	r := Request{Method: http.MethodGet, Path: eventsPath, Query: url.Values{}, lastEvent: q.After}
	if q.Pool != "" {
		r.Query.Set("pool", q.Pool)
	} else {
		r.Query.Set("all", "1")
	}
	if q.After == "" && q.Latest > 0 {
		r.Query.Set("last", strconv.Itoa(q.Latest))
	}
	if q.NoFollow {
		r.Query.Set("follow", "0")
	}
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

// Next waits for the next event. At the end of the stream it returns io.EOF, or the error that broke it off.
func (s *Stream) Next() (Event, error) {
	var e Event
	var data []string
	for s.lines.Scan() {
		line := strings.TrimSuffix(s.lines.Text(), "\r")
		if line == "" {
			if data == nil { // a comment that keeps the connection alive, or only an id
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
