// Package h1 parses the heads of HTTP/1.1 requests in place, strictly by RFC 9112 and RFC 9110. It parses plain heads only. For any other
// head, however valid or common, it only returns the reason: such a request is for a server that knows all of HTTP.
package h1

// Head is the head of a request. It refers to the bytes that it was parsed from, and is valid as long as they are unchanged. It may be
// reused for other heads, after [Head.Reset].
type Head struct {
	Raw    []byte // from the first byte of the request line to the end of the empty line
	Method string // one of the known methods
	Target Span   // of the request line: origin-form
	Path   Span   // its path; it begins with one slash
	Query  Span   // the part after the question mark
	Asked  bool   // there is a question mark
	Host   Span   // the value of the field Host: a name or an address, with or without a port
	Fields []Field

	// Plain reports that the path has no escapes, no empty segments and no segments that end with a dot, so that it is equal to its decoded
	// and cleaned form. (A dot at the end of a segment is ignored on Windows only.)
	Plain bool

	Length  int64 // of the body; 0 for none
	HasBody bool  // there is a Content-Length field, which may be 0
	Close   bool  // the client closes the connection after the answer
	Kept    bool  // the client sends Connection: keep-alive

	// The state of parsing an incomplete head: line is where the current line begins, and everything before seen was examined.
	line, seen int

	pragma, cached bool // there is a field Pragma, or Cache-Control
}

// Span is a part of a head's bytes.
type Span struct{ Start, End int }

// Field is the position of a field in a head: its name, which is canonical, and its value without surrounding blanks. Its line ends where
// the name of the next field begins; that of the last field ends where the empty line begins, which is the last two bytes of the head.
type Field struct{ Name, Value Span }

// Of returns that part of raw.
func (s Span) Of(raw []byte) []byte { return raw[s.Start:s.End] }

// Reset prepares the head for parsing another one. It keeps the memory of the fields.
func (h *Head) Reset() { *h = Head{Fields: h.Fields[:0]} }

// Reason is why a head is not plain. The constant Plain is the empty one.
type Reason string

// Plain and Incomplete are results without a reason: the head is plain, or more bytes must be read.
const (
	Plain      Reason = ""
	Incomplete Reason = "incomplete"
)

// The reasons. If several apply, the first byte that shows one decides; reasons of a whole field apply at the end of its line.
const (
	EmptyLine Reason = "empty_line" // before the request line; net/http accepts it after a POST
	Method    Reason = "method"     // is none of GET, HEAD, POST, PUT, DELETE, PATCH and OPTIONS
	Target    Reason = "target"     // is not in origin-form, or has bytes that net/url does not preserve
	ACME      Reason = "acme"       // the path of an ACME challenge
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
	Connection         Reason = "connection"          // is repeated, has a value other than close or keep-alive, or is a field that Connection may name
	Upgrade            Reason = "upgrade"             // to another protocol
	Expect             Reason = "expect"              // 100-continue, or anything else
	TE                 Reason = "te"                  // the transfer codings that the client accepts
	Trailer            Reason = "trailer"             // announces fields after the body
	HopByHop           Reason = "hop_by_hop"          // another field for this connection only
	ProxyAuthorization Reason = "proxy_authorization" // or Proxy-Authenticate
	Incremental        Reason = "incremental"         // the body must be forwarded incrementally
	GRPC               Reason = "grpc"                // Content-Type begins with application/grpc
	Pragma             Reason = "pragma"              // without Cache-Control, which net/http adds to it
)

// MaxFields is the number of fields up to which a head is plain.
const MaxFields = 100
