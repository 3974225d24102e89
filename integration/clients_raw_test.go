package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// brokenUpload is a request of a client that does something wrong, or leaves.
type brokenUpload struct {
	announced int // Content-Length; negative for none
	sent      int // bytes of the body
	then      clientEnd
	after     bool   // it has got the beginning of the answer
	begun     func() // waits until a backend has got the beginning; for those who reset
}

// clientEnd is what a client does when it has sent what it sends.
type clientEnd int

const (
	endsBody    clientEnd = iota // as if that were all
	resets                       // the stream, or the connection where that is the same
	waits                        // for what comes
	trickles                     // a byte from time to time
	pauses                       // for longer than a backend may like, before it does
	closes                       // its connection
	breaksChunk                  // HTTP/1.1: what follows is no chunk
	breaksTrailers
	leaves // waits for the beginning of the answer, and goes
)

// trickle writes a byte from time to time, until that fails or took too long.
func (u brokenUpload) trickle(w io.Writer, frame func(p string) []byte) {
	if u.then == pauses {
		time.Sleep(3 * time.Second / 2)
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, err := w.Write(frame("x")); err != nil {
			return
		}
	}
}

// clientTLS is how clients of tests speak TLS.
func clientTLS(protocol string) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}, ServerName: "127.0.0.1"}
}

// protocols are the ways in which a client can send.
var protocols = map[string]func(site, path string, u brokenUpload) error{"h1": sendHTTP1, "h2": sendHTTP2, "h3": sendHTTP3}

// sendHTTP1 makes the request over a connection of its own, and returns when it has been answered or given up.
func sendHTTP1(site, path string, u brokenUpload) error {
	plain, err := net.Dial("tcp", site)
	if err != nil {
		return err
	}
	defer plain.Close()
	_ = plain.SetDeadline(time.Now().Add(20 * time.Second))
	conn := tls.Client(plain, clientTLS("http/1.1"))
	frame := func(p string) []byte { return []byte(p) }
	length := fmt.Sprintf("Content-Length: %d", u.announced)
	if u.announced < 0 {
		length = "Transfer-Encoding: chunked"
		frame = func(p string) []byte { return fmt.Appendf(nil, "%x\r\n%s\r\n", len(p), p) }
	}
	head := "POST " + path + " HTTP/1.1\r\nHost: " + site + "\r\nUser-Agent: test\r\n" + length + "\r\n\r\n"
	if _, err := conn.Write(append([]byte(head), frame(strings.Repeat("x", u.sent))...)); err != nil {
		return err
	}
	answer := bufio.NewReader(conn)
	if u.after {
		if _, err := answer.Peek(1); err != nil {
			return err
		}
	}
	switch u.then {
	case endsBody:
		if u.announced < 0 || u.sent < u.announced {
			_ = conn.CloseWrite()
		}
	case resets:
		u.begun()
		_ = plain.(*net.TCPConn).SetLinger(0)
		return plain.Close()
	case closes:
		u.begun()
		return nil
	case trickles, pauses:
		go u.trickle(conn, frame)
	case breaksChunk:
		_, _ = conn.Write([]byte("no chunk\r\n"))
	case breaksTrailers:
		_, _ = conn.Write([]byte("0\r\nno field\r\n\r\n"))
	}
	res, err := http.ReadResponse(answer, nil)
	if err != nil || u.then == leaves {
		return nil // the log tells what became of it
	}
	defer res.Body.Close()
	_, _ = discard(res.Body)
	return nil
}

// sendHTTP2 does the same over HTTP/2.
func sendHTTP2(site, path string, u brokenUpload) error {
	conn, err := tls.Dial("tcp", site, clientTLS("h2"))
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return err
	}
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(); err != nil {
		return err
	}
	var head bytes.Buffer
	fields := hpack.NewEncoder(&head)
	for _, f := range requestFields(site, path, u.announced) {
		_ = fields.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	whole := u.then == endsBody && !u.after || u.then == leaves || u.sent == u.announced
	none := whole && u.sent == 0
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true, EndStream: none}); err != nil {
		return err
	}
	if !none {
		if err := framer.WriteData(1, whole, bytes.Repeat([]byte("x"), u.sent)); err != nil {
			return err
		}
	}
	if u.after {
		for { // bound: there is a deadline
			frame, err := framer.ReadFrame()
			if err != nil {
				return err
			}
			if _, begun := frame.(*http2.HeadersFrame); begun {
				break
			}
		}
		_ = framer.WriteData(1, true, nil)
	}
	switch u.then {
	case resets:
		u.begun()
		return framer.WriteRSTStream(1, http2.ErrCodeCancel)
	case closes:
		u.begun()
		return nil
	case trickles, pauses:
		go u.trickle(conn, func(p string) []byte {
			var b bytes.Buffer
			_ = http2.NewFramer(&b, nil).WriteData(1, false, []byte(p))
			return b.Bytes()
		})
	case breaksTrailers:
		head.Reset()
		_ = fields.WriteField(hpack.HeaderField{Name: ":path", Value: "/"})
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true, EndStream: true})
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return nil
		}
		switch f := frame.(type) {
		case *http2.HeadersFrame:
			if f.StreamEnded() || u.then == leaves {
				return nil
			}
		case *http2.DataFrame:
			if f.StreamEnded() {
				return nil
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return nil
		}
	}
}

// requestFields is the head of a request in HTTP/2 and HTTP/3.
func requestFields(site, path string, announced int) [][2]string {
	fields := [][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", site}, {":path", path}, {"user-agent", "test"}}
	if announced >= 0 {
		fields = append(fields, [2]string{"content-length", fmt.Sprint(announced)})
	}
	return fields
}

// sendHTTP3 does the same over HTTP/3.
func sendHTTP3(site, path string, u brokenUpload) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := quic.DialAddr(ctx, site, clientTLS("h3"), nil)
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseWithError(0x100, "") }() // H3_NO_ERROR
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return err
	}
	_ = stream.SetDeadline(time.Now().Add(20 * time.Second))
	head := func(fields ...[2]string) []byte {
		var b bytes.Buffer
		encoder := qpack.NewEncoder(&b)
		for _, f := range fields {
			_ = encoder.WriteField(qpack.HeaderField{Name: f[0], Value: f[1]})
		}
		return http3Frame(1, b.Bytes())
	}
	data := func(p string) []byte { return http3Frame(0, []byte(p)) }
	if _, err := stream.Write(append(head(requestFields(site, path, u.announced)...), data(strings.Repeat("x", u.sent))...)); err != nil {
		return nil // it has been refused already
	}
	if u.after {
		if _, err := stream.Read(make([]byte, 1)); err != nil {
			return err
		}
	}
	switch u.then {
	case endsBody, leaves:
		_ = stream.Close()
	case resets:
		u.begun()
		stream.CancelWrite(0x10c) // H3_REQUEST_CANCELLED
		stream.CancelRead(0x10c)
		return nil
	case closes:
		u.begun()
		return nil
	case trickles, pauses:
		go u.trickle(stream, data)
	case breaksTrailers:
		_, _ = stream.Write(head([2]string{":path", "/"}))
		_ = stream.Close()
	}
	if u.then == leaves {
		_, _ = stream.Read(make([]byte, 1))
		return nil
	}
	_, _ = discard(stream)
	return nil
}

func http3Frame(kind uint64, payload []byte) []byte {
	b := quicvarint.Append(nil, kind)
	return append(quicvarint.Append(b, uint64(len(payload))), payload...)
}
