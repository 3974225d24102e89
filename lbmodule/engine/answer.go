package engine

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/ballastlb/ballast/lbmodule/fieldline"
)

// answer is the answer to a request. It is allocated in one piece with its body.
//
// Its head is read as [http.ReadResponse] reads it: what one accepts, the other accepts with the same result. Here that allocates one
// string for all names and values, one slice and one map.
type answer struct {
	http.Response
	body   body
	coding [1]string // for TransferEncoding

	// odd says that other HTTP implementations may parse the answer differently, and so find its end elsewhere. The connection must not be
	// used again.
	odd bool

	// lines receives the header's lines; nil if they are not kept.
	lines *Lines
}

// field is the position of a header field: its name is at name:colon, its value at value:end.
type field struct{ name, colon, value, end int }

// usualFields is the number of fields up to which parsing a header allocates no memory for their positions.
const usualFields = 32

// maxSizedFields bounds the initial size of a header's map. Many fields may have the same name.
const maxSizedFields = 1000

// errIncomplete is returned for a head that is not all in the buffer, or that has a folded line.
var errIncomplete = errors.New("header is incomplete")

// readHead reads the head of the answer to a request with this method.
func (a *answer) readHead(br *bufio.Reader, method string) error {
	a.body.from.br = br
	var room [usualFields]field
	if _, err := br.Peek(1); err != nil {
		return unexpected(err)
	}
	raw, _ := br.Peek(br.Buffered())
	n, err := a.parse(raw, method, room[:0], false)
	if err == nil {
		_, err = br.Discard(n)
		return err
	}
	if !errors.Is(err, errIncomplete) {
		return err
	}
	if raw, err = collectHead(br); err != nil {
		return err
	}
	_, err = a.parse(raw, method, room[:0], true)
	return err
}

// collectHead reads a head that is not all in the buffer. It returns an error at the first invalid line, because a sender that does not
// speak HTTP may never end its head.
func collectHead(br *bufio.Reader) ([]byte, error) {
	raw := make([]byte, 0, 2*br.Size())
	for start, lines := 0, 0; ; {
		piece, err := br.ReadSlice('\n')
		raw = append(raw, piece...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		}
		line := trimEnd(raw[start : len(raw)-1])
		switch {
		case lines == 0:
			_, err = parseStatus(line)
		case len(line) == 0:
			return raw, nil
		case isBlank(line[0]) && lines > 1:
			if !isValue(line) {
				err = malformed("header line", line)
			}
		default:
			_, _, err = checkField(line)
		}
		if err != nil {
			return nil, err
		}
		start = len(raw)
		lines++
	}
}

// parse parses the head at the beginning of raw, which it may change, and returns its length. It appends to fields, which should be empty.
// whole says that the end of the head is in raw; otherwise, parse returns errIncomplete for heads with folded lines.
func (a *answer) parse(raw []byte, method string, fields []field, whole bool) (int, error) {
	end := bytes.IndexByte(raw, '\n')
	if end < 0 {
		return 0, errIncomplete
	}
	line := trimEnd(raw[:end])
	status, err := parseStatus(line)
	if err != nil {
		return 0, err
	}
	fields, n, odd, err := appendFields(fields, raw, end+1, whole)
	if err != nil {
		return 0, err
	}
	text := string(raw[:n])
	a.Status, a.StatusCode = text[status.at:len(line)], status.code
	a.ProtoMajor, a.ProtoMinor = status.major, status.minor
	switch {
	case status.major == 1 && status.minor == 1:
		a.Proto = "HTTP/1.1"
	case status.major == 1 && status.minor == 0:
		a.Proto = "HTTP/1.0"
	default:
		a.Proto = text[:len("HTTP/0.0")]
	}
	a.odd = odd || !isValue(line)
	if a.lines != nil && status.code >= http.StatusOK {
		a.lines.text, a.lines.all = text, append(a.lines.all[:0], fields...)
		return n, a.frame(a.fillTold(), method)
	}
	return n, a.frame(a.fill(text, fields), method)
}

// statusLine is the parsed first line of a head. The text from at on is the status with its reason.
type statusLine struct{ at, code, major, minor int }

func parseStatus(line []byte) (s statusLine, err error) {
	blank := bytes.IndexByte(line, ' ')
	if blank < 0 {
		return s, malformed("answer", line)
	}
	for s.at = blank; s.at < len(line) && line[s.at] == ' '; {
		s.at++
	}
	code := line[s.at:]
	if end := bytes.IndexByte(code, ' '); end >= 0 {
		code = code[:end]
	}
	if len(code) != len("200") {
		return s, malformed("status", line)
	}
	if s.code, err = strconv.Atoi(string(code)); err != nil || s.code < 0 {
		return s, malformed("status", line)
	}
	var ok bool
	if s.major, s.minor, ok = http.ParseHTTPVersion(string(line[:blank])); !ok {
		return s, malformed("version", line)
	}
	return s, nil
}

// appendFields appends the fields of the header at raw[at:], and returns the end of the header; odd says that other implementations may
// understand a field differently. It makes the names canonical, and joins folded lines, in place; if whole is not set, it returns
// errIncomplete for those instead.
func appendFields(fields []field, raw []byte, at int, whole bool) (_ []field, end int, odd bool, err error) {
	for {
		stop := bytes.IndexByte(raw[at:], '\n')
		if stop < 0 {
			return nil, 0, false, errIncomplete
		}
		line, next := trimEnd(raw[at:at+stop]), at+stop+1
		if len(line) == 0 {
			return fields, next, odd, nil
		}
		folded := next < len(raw) && isBlank(raw[next])
		if folded {
			if !whole {
				return nil, 0, false, errIncomplete
			}
			if bytes.IndexByte(line, ':') < 0 {
				return nil, 0, false, malformed("header line", line)
			}
			line, next = unfold(raw, at, len(line), next)
		}
		colon, spaced, err := checkField(line)
		if err != nil {
			return nil, 0, false, err
		}
		f := field{name: at, colon: at + colon, value: at + colon + 1, end: at + len(line)}
		for f.value < f.end && isBlank(raw[f.value]) {
			f.value++
		}
		for !folded && f.end > f.value && isBlank(raw[f.end-1]) {
			f.end--
		}
		odd = odd || spaced || folded && isFraming(raw[f.name:f.colon])
		fields, at = append(fields, f), next
	}
}

// unfold joins the line of this length at raw[at:] with the folded ones, of which the first is at raw[next:]: a space is put between
// them. It returns the line, and the place of the one after them.
func unfold(raw []byte, at, length, next int) (line []byte, _ int) {
	end := at + len(bytes.TrimRight(raw[at:at+length], " \t"))
	for next < len(raw) && isBlank(raw[next]) {
		stop := bytes.IndexByte(raw[next:], '\n')
		if stop < 0 {
			break
		}
		piece := bytes.Trim(trimEnd(raw[next:next+stop]), " \t")
		raw[end] = ' '
		end += 1 + copy(raw[end+1:], piece)
		next += stop + 1
	}
	return raw[at:end], next
}

// checkField checks the line of a field, makes its name canonical in place, and returns the place of the colon. net/http accepts a name
// with spaces and leaves it as it is; so does checkField, which reports it.
func checkField(line []byte) (colon int, spaced bool, err error) {
	colon, canonical, _ := fieldline.Name(line)
	for colon < len(line) && line[colon] == ' ' && colon > 0 {
		n, _, _ := fieldline.Name(line[colon+1:])
		colon += 1 + n
		spaced = true
	}
	if colon == 0 || colon == len(line) || line[colon] != ':' || !isValue(line[colon+1:]) {
		return 0, false, malformed("header line", line)
	}
	if !canonical && !spaced {
		fieldline.Canonicalize(line[:colon])
	}
	return colon, spaced, nil
}

// isValue reports whether all bytes may be in the value of a field: no control characters but tabs.
func isValue(v []byte) bool { return fieldline.Value(v) == len(v) }

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// isFraming reports whether a field of this name decides where the answer or its connection ends.
func isFraming(name []byte) bool {
	switch string(name) {
	case "Content-Length", "Transfer-Encoding", "Connection":
		return true
	}
	return false
}

// trimEnd removes the CR at the end of a line.
func trimEnd(line []byte) []byte {
	if last := len(line) - 1; last >= 0 && line[last] == '\r' {
		return line[:last]
	}
	return line
}

// malformed returns the error about the part of an answer in this line.
func malformed(part string, line []byte) error {
	const most = 80
	return fmt.Errorf("malformed %s: %q", part, line[:min(len(line), most)])
}

// special counts the fields of a header that have a meaning for the answer itself.
type special struct {
	coding                                           string // the last Transfer-Encoding
	codings, lengths, connections, trailers, pragmas int
}

// fill sets the header of the answer. The text is the head.
func (a *answer) fill(text string, fields []field) (s special) {
	if a.Header == nil {
		a.Header = make(http.Header, min(len(fields), maxSizedFields))
	}
	values := make([]string, len(fields))
	for i, f := range fields {
		name, value := text[f.name:f.colon], text[f.value:f.end]
		s.count(name, value)
		if name == "Transfer-Encoding" { // not part of http.Response.Header
			continue
		}
		add(a.Header, name, values[i:i+1:i+1], value)
	}
	a.fixPragma(s)
	return s
}

// count counts a field if it has a meaning for the answer itself.
func (s *special) count(name, value string) {
	switch name {
	case "Transfer-Encoding":
		s.coding = value
		s.codings++
	case "Content-Length":
		s.lengths++
	case "Connection":
		s.connections++
	case "Trailer":
		s.trailers++
	case "Pragma":
		s.pragmas++
	}
}

// fixPragma turns Pragma: no-cache into Cache-Control, as net/http does.
func (a *answer) fixPragma(s special) {
	if s.pragmas > 0 && a.Header["Pragma"][0] == "no-cache" && a.Header["Cache-Control"] == nil {
		a.Header["Cache-Control"] = []string{"no-cache"}
	}
}

// frame sets where the answer ends, and whether its connection does.
func (a *answer) frame(s special, method string) error {
	a.Close = a.ProtoMajor < 1
	if a.ProtoMajor == 1 && a.ProtoMinor == 0 {
		a.Close = s.connections == 0 || !httpguts.HeaderValuesContainsToken(a.Header["Connection"], "keep-alive") ||
			httpguts.HeaderValuesContainsToken(a.Header["Connection"], "close")
	} else if !a.Close && s.connections > 0 && httpguts.HeaderValuesContainsToken(a.Header["Connection"], "close") {
		a.Close = true
		delete(a.Header, "Connection")
	}
	chunked := false
	if s.codings > 0 && (a.ProtoAtLeast(1, 1) || a.ProtoMajor == 0 && a.ProtoMinor == 0) { // net/http treats HTTP/0.0 as HTTP/1.1 here
		if s.codings > 1 || len(s.coding) != len("chunked") || !strings.EqualFold(s.coding, "chunked") {
			return fmt.Errorf("unsupported transfer encoding: %q", s.coding)
		}
		chunked = true
	}
	length := int64(-1)
	if s.lengths > 0 {
		var err error
		if length, err = a.announcedLength(s.lengths); err != nil {
			return err
		}
	}
	// If the end is given in two ways, or by chunks that the version does not have, another implementation may use the other one, and then
	// sees other messages on the connection (RFC 9112, 6.1 and 6.3). The same holds if a body is announced where none is allowed.
	a.odd = a.odd || s.codings > 0 && (!chunked || s.lengths > 0) ||
		!allowsBody(a.StatusCode) && a.StatusCode != http.StatusNotModified && (s.codings > 0 || length > 0)
	a.ContentLength = length
	switch from := &a.body.from; {
	case method == http.MethodHead: // the length is that of the answer to a GET
	case !allowsBody(a.StatusCode):
		a.ContentLength = 0
	case chunked:
		delete(a.Header, "Content-Length")
		from.form, from.trailer, a.ContentLength = inChunks, &a.Trailer, -1
	case length > 0:
		from.form, from.left = byLength, uint64(length)
	case length < 0:
		from.form, a.Close = untilEnd, true
	}
	if chunked {
		a.coding[0] = "chunked"
		a.TransferEncoding = a.coding[:]
		if s.trailers > 0 {
			return a.announceTrailers()
		}
	}
	return nil
}

// add adds a value to a header. one is a slice of one element, in which the value is put if it is the first of its name.
func add(h http.Header, name string, one []string, value string) {
	if old := h[name]; old != nil {
		h[name] = append(old, value)
		return
	}
	one[0] = value
	h[name] = one
}

// announcedLength returns the value of Content-Length. It merges the n fields of that name into one.
func (a *answer) announcedLength(n int) (int64, error) {
	values := a.Header["Content-Length"]
	text := textproto.TrimString(values[0])
	if n > 1 {
		for _, other := range values[1:] {
			if textproto.TrimString(other) != text {
				return 0, fmt.Errorf("lengths of the answer differ: %q", values)
			}
		}
		values[0] = text
		a.Header["Content-Length"] = values[:1:1]
	}
	length, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("invalid Content-Length: %q", text)
	}
	return int64(length), nil
}

// announceTrailers moves the names in the field Trailer to the answer's trailers.
func (a *answer) announceTrailers() error {
	names := make(http.Header)
	for _, list := range a.Header["Trailer"] {
		for name := range strings.SplitSeq(list, ",") {
			switch name = http.CanonicalHeaderKey(textproto.TrimString(name)); name {
			case "":
			case "Transfer-Encoding", "Trailer", "Content-Length":
				return fmt.Errorf("invalid trailer: %q", name)
			default:
				names[name] = nil
			}
		}
	}
	delete(a.Header, "Trailer")
	if len(names) > 0 {
		a.Trailer = names
	}
	return nil
}

// allowsBody reports whether an answer with this status may have a body.
func allowsBody(status int) bool {
	return status/100 != 1 && status != http.StatusNoContent && status != http.StatusNotModified
}
