// Package h1 reads the heads of HTTP/1.1 requests in place, to the letter of RFC 9112 and RFC 9110. What is not plain, however valid or
// common it may be, it only names: such a request is for a server that knows all of HTTP.
package h1

// Head is the head of a request. It refers to the bytes that it was read from, and is valid for as long as they are. It may be used again
// for other heads.
type Head struct {
	Raw    []byte // from the first byte of the request line to the end of the empty line
	Method string // one of those that are known
	Target Span   // of the request line: origin-form
	Path   Span   // its path; it begins with a slash
	Query  Span   // what follows the question mark
	Asked  bool   // there is a question mark
	Host   Span   // the value of the field Host
	Fields []Field

	// Plain says that the path has no escapes, no empty and no dotted segments, so that it is its own decoded and cleaned form.
	Plain bool

	Length  int64 // of the body; 0 for none
	HasBody bool  // there is a Content-Length, which may be 0
	Close   bool  // the client closes the connection after the answer
	Kept    bool  // the client says that it keeps the connection, with Connection: keep-alive
}

// Span is a part of a head's bytes.
type Span struct{ Start, End int }

// Field is where a field of a head is: its name, which is canonical, and its value without blanks around it. The line ends at Next.
type Field struct{ Name, Value Span }

// Of returns the part of raw.
func (s Span) Of(raw []byte) []byte { return raw[s.Start:s.End] }

// Reason says why a head is not plain. Plain is the empty one.
type Reason string

// Plain and Incomplete are the outcomes without a reason: the head is plain; more of it must be read.
const (
	Plain      Reason = ""
	Incomplete Reason = "incomplete"
)
