// Package h1 reads the heads of HTTP/1.1 requests in place, to the letter of RFC 9112 and RFC 9110. What is not plain, however valid or
// common it may be, it only names: such a request is for a server that knows all of HTTP.
package h1

// Head is the head of a request. It refers to the bytes that it was read from, and is valid for as long as they are. It may be used again
// for other heads, after [Head.Reset].
type Head struct {
	Raw    []byte // from the first byte of the request line to the end of the empty line
	Method string // one of those that are known
	Target Span   // of the request line: origin-form
	Path   Span   // its path; it begins with one slash
	Query  Span   // what follows the question mark
	Asked  bool   // there is a question mark
	Host   Span   // the value of the field Host: a name or an address, with or without a port
	Fields []Field

	// Plain says that the path has no escapes, no empty segments and none that end with a dot, so that it is its own decoded and cleaned
	// form. That a dot at the end of a segment is nothing is so on Windows only.
	Plain bool

	Length  int64 // of the body; 0 for none
	HasBody bool  // there is a Content-Length, which may be 0
	Close   bool  // the client closes the connection after the answer
	Kept    bool  // the client says that it keeps the connection, with Connection: keep-alive

	// What has been read of a head that is not all there: line is where the line begins that is, and seen where nothing was found up to.
	line, seen int

	pragma, cached bool // there is a field Pragma, or Cache-Control
}

// Span is a part of a head's bytes.
type Span struct{ Start, End int }

// Field is where a field of a head is: its name, which is canonical, and its value without blanks around it. Its line ends where the name
// of the next field begins; that of the last field ends where the empty line begins, which are the last two bytes of the head.
type Field struct{ Name, Value Span }

// Of returns the part of raw.
func (s Span) Of(raw []byte) []byte { return raw[s.Start:s.End] }

// Reset prepares the head for another one. It keeps the memory of the fields.
func (h *Head) Reset() { *h = Head{Fields: h.Fields[:0]} }

// Reason says why a head is not plain. Plain is the empty one.
type Reason string

// Plain and Incomplete are the outcomes without a reason: the head is plain; more of it must be read.
const (
	Plain      Reason = ""
	Incomplete Reason = "incomplete"
)

// The reasons. Where a head has several, the first byte that shows one decides; those of a whole field show at the end of its line.
const (
	EmptyLine Reason = "empty_line" // before the request line; net/http takes it after a POST
	Method    Reason = "method"     // is none of GET, HEAD, POST, PUT, DELETE, PATCH and OPTIONS
	Target    Reason = "target"     // is not origin-form, or has bytes that net/url does not give back as they are
	ACME      Reason = "acme"       // the path of a challenge that a certificate authority asks for
	Version   Reason = "version"    // is not HTTP/1.1

	BareLF        Reason = "bare_lf"         // a line that ends without CR
	BareCR        Reason = "bare_cr"         // a CR that does not end a line
	Folded        Reason = "folded"          // a line that begins with a blank
	FieldName     Reason = "field_name"      // is empty, not a token or very long, is not followed by a colon, or has "_" or "."
	FieldValue    Reason = "field_value"     // has a control character
	TooManyFields Reason = "too_many_fields" // more than MaxFields
	TooLong       Reason = "too_long"        // more bytes than are allowed

	Host               Reason = "host"                // is missing, repeated, or neither a name nor an address
	ContentLength      Reason = "content_length"      // is repeated or not a plain number
	Body               Reason = "body"                // of a GET or HEAD
	TransferEncoding   Reason = "transfer_encoding"   // the body comes in chunks, or otherwise encoded
	Connection         Reason = "connection"          // is repeated or anything but close or keep-alive; or a field that it may name
	Upgrade            Reason = "upgrade"             // to another protocol
	Expect             Reason = "expect"              // 100-continue, or anything else
	TE                 Reason = "te"                  // what the client takes for the answer
	Trailer            Reason = "trailer"             // announces fields after the body
	HopByHop           Reason = "hop_by_hop"          // another field that is for this connection alone
	ProxyAuthorization Reason = "proxy_authorization" // or Proxy-Authenticate
	Incremental        Reason = "incremental"         // the body is to be passed on piece by piece
	GRPC               Reason = "grpc"                // Content-Type begins with application/grpc
	Pragma             Reason = "pragma"              // without Cache-Control, which net/http adds to it
)

// MaxFields is the number of fields up to which a head is plain.
const MaxFields = 100
