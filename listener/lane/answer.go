package lane

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/ballastlb/ballast/lbmodule/front"
)

// sentAnswer is the answer as the client has got it.
type sentAnswer struct {
	status   int
	size     int         // bytes of the body that were written
	header   http.Header // fields that are added; once the head was written and there is a log, all fields
	fields   fields
	begun    bool  // the head was written
	complete bool  // the whole answer was written
	close    bool  // the connection is not kept
	failed   error // of writing
	bound    bound // of writing the body
	piece    int   // the most bytes that are written within the time of one write
}

// reset prepares a for the answer to another request. It keeps the memory of fields.
func (a *sentAnswer) reset() {
	a.status, a.size, a.header, a.begun, a.complete, a.close, a.failed = 0, 0, nil, false, false, false, nil
	a.fields.reset()
}

// pass sends a backend's answer to the client, as Caddy would.
func (x *request) pass(res *http.Response) {
	buffer := writeBuffers.Get().(*[writeSize]byte)
	defer writeBuffers.Put(buffer)
	x.endBody()
	if x.edit != nil {
		x.editAnswer(res)
	}
	form := x.formOf(res)
	b := x.appendAnswer(buffer[:0], res, form)
	x.begins(res.StatusCode)
	var failed error // the error of reading
	switch form {
	case bare:
		x.writeWhole(b)
	case sized:
		if x.conn.way.Front.Flushes() && !isReady(res) {
			x.write(b)
			b = b[:0]
		}
		failed = x.passSized(b, res)
	case chunked:
		if !isReady(res) {
			x.write(b)
			b = b[:0]
		}
		failed = x.passChunks(b, res)
	}
	closing := res.Body.Close()
	x.answer.complete = failed == nil && closing == nil && (x.answer.complete || x.answer.failed == nil)
	if failed != nil || x.answer.failed != nil && !x.answer.complete {
		x.Abort(failed, x.answer.failed, x.record.Current().Took)
	}
}

// isReady reports whether the first bytes of the body have arrived.
func isReady(res *http.Response) bool {
	of, ok := res.Body.(interface{ IsReady() bool })
	return ok && of.IsReady()
}

// endBody reads the rest of the request's body, or marks the connection to be closed after the answer. If the connection is closed anyway,
// the rest is not read: the client may wait for the answer before it sends it.
func (x *request) endBody() {
	if x.comes() && !x.answer.close && !x.body.finish() {
		x.answer.close = true
	}
}

// begins records that the head of the answer is about to be written.
func (x *request) begins(status int) {
	x.answer.status, x.answer.begun = status, true
	if x.measured {
		x.measure.Answer(status, time.Now())
	}
}

// form is how the end of an answer's body is marked.
type form uint8

const (
	bare    form = iota // it has no body
	sized               // by Content-Length
	chunked             // by chunks
)

func (x *request) formOf(res *http.Response) form {
	switch {
	case x.conn.head.Method == http.MethodHead || !allowsBody(res.StatusCode):
		return bare
	case res.ContentLength < 0:
		return chunked
	case res.ContentLength > knownAtOnce && x.hidesLength(res):
		return chunked // as Caddy's server, which computes the length of short bodies only
	case res.Body == http.NoBody && !x.hidesLength(res):
		return bare
	default:
		return sized
	}
}

// hidesLength reports whether the backend's Content-Length is not passed on.
func (x *request) hidesLength(res *http.Response) bool {
	if x.edit != nil {
		return x.answer.header["Content-Length"] == nil
	}
	return isNamed(res.Header["Connection"], "Content-Length")
}

// knownAtOnce is the longest body, in bytes, whose length net/http's server computes.
const knownAtOnce = 2048

// allowsBody reports whether an answer with that status may have a body.
func allowsBody(status int) bool {
	return status >= http.StatusOK && status != http.StatusNoContent && status != http.StatusNotModified
}

// appendAnswer appends the head of a backend's answer.
func (x *request) appendAnswer(b []byte, res *http.Response, form form) []byte {
	if x.edit != nil {
		return x.appendEdited(b, res, form)
	}
	f := &x.answer.fields
	f.reset()
	x.addAltSvc(f)
	f.add("Via", front.AnswerVia(res))
	f.addAll(x.Lean.Tells())
	dated, typed := false, false
	connection := res.Header["Connection"]
	lines := x.Lean.Lines()
	for i := range lines.Len() {
		name, value := lines.At(i)
		switch name {
		case "Date":
			dated = true
		case "Content-Type":
			typed = true
			if res.StatusCode == http.StatusNotModified {
				continue
			}
		case "Content-Length":
			continue // below
		case "Content-Encoding":
			if res.Uncompressed {
				continue
			}
		}
		if front.IsHopByHop(name) || len(connection) > 0 && isNamed(connection, name) || strings.IndexByte(name, ' ') >= 0 {
			continue
		}
		f.add(name, value)
	}
	if res.Header["Pragma"] != nil && res.Header["Cache-Control"] != nil && !f.has("Cache-Control") {
		f.add("Cache-Control", "no-cache") // net/http's server adds this for a request with Pragma of HTTP/1.0
	}
	length := res.Header["Content-Length"]
	if form == chunked || len(connection) > 0 && isNamed(connection, "Content-Length") {
		length = nil
	}
	if len(length) > 0 && allowsBody(res.StatusCode) {
		f.add("Content-Length", length[0])
	}
	if len(res.Trailer) > 0 {
		f.add("Trailer", trailerNames(res))
	}
	b = f.appendTo(appendStatus(b, res.StatusCode))
	if x.logged {
		x.answer.header = f.header()
		if !allowsBody(res.StatusCode) && len(length) > 0 {
			x.answer.header["Content-Length"] = length[:1] // Caddy's server removes it after the log was written
		}
		if !typed {
			x.answer.header["Content-Type"] = nil // Caddy sets nil so that its server does not guess it
		}
	}
	b = x.appendDate(b, dated)
	if form == sized && len(length) == 0 { // see formOf
		b = append(b, "Content-Length: "...)
		b = append(strconv.AppendInt(b, res.ContentLength, 10), "\r\n"...)
	}
	return x.appendEnd(b, form)
}

// trailerNames returns the value of the field that announces the trailers.
func trailerNames(res *http.Response) string {
	return strings.Join(slices.Sorted(maps.Keys(res.Trailer)), ", ")
}

// appendEnd appends the end of a head.
func (x *request) appendEnd(b []byte, form form) []byte {
	b = x.appendConnection(b)
	if form == chunked {
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	return append(b, "\r\n"...)
}

func (x *request) appendDate(b []byte, dated bool) []byte {
	if dated {
		return b
	}
	b = append(b, "Date: "...)
	b = x.conn.now.UTC().AppendFormat(b, http.TimeFormat)
	return append(b, "\r\n"...)
}

func (x *request) appendConnection(b []byte) []byte {
	if x.answer.close {
		return append(b, "Connection: close\r\n"...)
	}
	return b
}

// addAltSvc adds the Alt-Svc field.
func (x *request) addAltSvc(f *fields) {
	if x.site.AltSvc != nil {
		if value := x.site.AltSvc(); value != "" {
			f.add("Alt-Svc", value)
		}
	}
}

func appendStatus(b []byte, status int) []byte {
	if status == http.StatusOK {
		return append(b, "HTTP/1.1 200 OK\r\n"...)
	}
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	if text := http.StatusText(status); text != "" {
		b = append(b, text...)
	} else {
		b = append(b, "status code "...)
		b = strconv.AppendInt(b, int64(status), 10)
	}
	return append(b, "\r\n"...)
}

// isNamed reports whether Connection names the field.
func isNamed(connection []string, name string) bool {
	for _, list := range connection {
		if list == "keep-alive" { // the most common value
			continue
		}
		for named := range strings.SplitSeq(list, ",") {
			if http.CanonicalHeaderKey(textproto.TrimString(named)) == name {
				return true
			}
		}
	}
	return false
}

// passSized passes on a body of known length. b is the head of the answer, at the beginning of a buffer. The error is a read error.
func (x *request) passSized(b []byte, res *http.Response) error {
	head := len(b)
	for first := head > 0; ; first = false {
		if !first {
			if res.ContentLength >= moveFrom {
				if err := x.move(res); !errors.Is(err, errors.ErrUnsupported) {
					return err
				}
			}
			head, b = 0, b[:0]
		}
		if cap(b)-head < leastRoom {
			if !x.write(b) {
				return nil
			}
			head, b = 0, b[:0]
		}
		n, err := res.Body.Read(b[head:cap(b)])
		switch {
		case first && int64(n) == res.ContentLength:
			x.writeWhole(b[:head+n])
			x.answer.size += n
		case n > 0 || head > 0:
			if !x.write(b[:head+n]) {
				return nil
			}
			x.answer.size += n
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// leastRoom is the least room in bytes that a buffer must have after a head, to read a part of the body into it.
const leastRoom = 1 << 10

const (
	// sizeRoom is the room for the size of a chunk and its line end.
	sizeRoom = len("7fff\r\n")
	// maxChunk is the largest chunk, in bytes, whose size fits into sizeRoom.
	maxChunk = 0x7fff
)

// passChunks passes on a body in chunks.
func (x *request) passChunks(b []byte, res *http.Response) error {
	const end = "\r\n0\r\n"
	for {
		if cap(b)-len(b) < leastRoom {
			if !x.write(b) {
				return nil
			}
			b = b[:0]
		}
		head := len(b)
		// A large head may have enlarged the buffer.
		data := b[head+sizeRoom : min(head+sizeRoom+maxChunk, cap(b)-len(end))]
		n, err := res.Body.Read(data)
		over := err == io.EOF
		if n > 0 {
			b = strconv.AppendInt(b, int64(n), 16)
			b = append(b, "\r\n"...)
			b = b[:len(b)+copy(b[len(b):cap(b)], data[:n])]
			b = append(b, "\r\n"...)
		}
		if over {
			b = append(b, "0\r\n"...)
			b = appendTrailers(b, res)
			b = append(b, "\r\n"...)
		}
		if len(b) > 0 && !x.write(b) {
			return nil
		}
		x.answer.size += n
		switch {
		case over:
			return nil
		case err != nil:
			return err
		}
		b = b[:0]
	}
}

// appendTrailers appends the trailers of an answer whose body was read, sorted by name, as net/http does.
func appendTrailers(b []byte, res *http.Response) []byte {
	for _, name := range slices.Sorted(maps.Keys(res.Trailer)) {
		if !httpguts.ValidTrailerHeader(name) {
			continue
		}
		for _, v := range res.Trailer[name] {
			b = appendField(b, name, v)
		}
	}
	return b
}

// refuse answers a request that no backend has answered.
func (x *request) refuse(status int) {
	if x.answer.begun {
		return
	}
	if x.Lean.Body().Failure() != nil {
		x.answer.close = true
	} else {
		x.endBody()
	}
	f := &x.answer.fields
	f.reset()
	if x.edit == nil {
		f.add("Server", "Caddy")
		x.addAltSvc(f)
		f.addAll(x.answer.header)
	} else {
		f.addEdited(x.answer.header, status)
	}
	_, dated := x.answer.header["Date"]
	buffer := writeBuffers.Get().(*[writeSize]byte)
	defer writeBuffers.Put(buffer)
	b := f.appendTo(appendStatus(buffer[:0], status))
	b = x.appendDate(b, dated)
	if x.conn.head.Method != http.MethodHead {
		b = append(b, "Content-Length: 0\r\n"...)
	}
	b = append(x.appendConnection(b), "\r\n"...)
	if x.logged && x.edit == nil {
		x.answer.header = f.header()
	}
	x.answer.status, x.answer.begun = status, true
	x.writeWhole(b)
}

// Inform implements [front.Client].
func (x *request) Inform(status int, header http.Header) {
	var f fields
	f.reset()
	if x.edit != nil {
		f.addEdited(x.edit.informed(status, header), status)
		header = nil
	} else {
		f.add("Server", "Caddy")
		x.addAltSvc(&f)
	}
	for name, values := range header {
		if name == "Content-Length" || name == "Transfer-Encoding" || !httpguts.ValidHeaderFieldName(name) {
			continue
		}
		for _, v := range values {
			f.add(name, v)
		}
	}
	if x.measured {
		x.measure.Answer(status, time.Now())
	}
	x.write(append(f.appendTo(appendStatus(nil, status)), "\r\n"...))
}
