package engine

import "net/http"

// An answer to a request with a [Head] keeps its header as lines. A proxy passes most fields on without looking at them, and a map of all
// of them costs more than the rest of reading an answer. Its Header has only the fields for which [isTold] is true.

// usualTold is the number of such fields up to which no memory is allocated for them.
const usualTold = 6

// isTold reports whether the field of that canonical name is in the Header of an answer that keeps its header as lines. Those fields
// determine where the answer ends, how it is passed on, and whether it is good.
func isTold(name string) bool {
	switch name {
	case "Content-Length", "Connection", "Trailer", "Content-Type", "Content-Encoding", "Retry-After", "Grpc-Status", "Incremental",
		"Pragma", "Cache-Control":
		return true
	}
	return false
}

// fillTold sets the header of an answer that keeps its lines.
func (a *answer) fillTold() (s special) {
	if a.Header == nil {
		a.Header = make(http.Header, usualTold)
	}
	l := a.lines
	for i, n := 0, 0; i < len(l.all); i++ {
		name, value := l.At(i)
		if name == "Transfer-Encoding" {
			s.count(name, value)
			continue
		}
		if !isTold(name) {
			continue
		}
		s.count(name, value)
		if n == len(l.told) {
			add(a.Header, name, make([]string, 1), value)
			continue
		}
		add(a.Header, name, l.told[n:n+1:n+1], value)
		n++
	}
	a.fixPragma(s)
	return s
}

// maxKept is the number of fields beyond which the memory for them is not kept for another answer.
const maxKept = 128

// Reset makes k usable for another request. Nothing may refer to its answer any more.
func (k *Call) Reset() {
	header, all := k.answer.Header, k.lines.all
	if len(header) > maxKept { // a map does not shrink
		header = nil
	}
	if cap(all) > maxKept {
		all = nil
	}
	clear(header)
	*k = Call{answer: answer{Response: http.Response{Header: header}}, lines: Lines{all: all[:0]}}
}

// Lines are the fields of an answer's header, in their order and with canonical names.
type Lines struct {
	text string
	all  []field
	told [usualTold]string // values of the fields that are in the Header as well
}

// Lines returns the header of the answer, if the request had a [Head]. They are valid until the Call is used again. They include the fields
// that describe the framing between the backend and this client.
func (k *Call) Lines() *Lines { return &k.lines }

// Len returns the number of fields.
func (l *Lines) Len() int { return len(l.all) }

// At returns a field.
func (l *Lines) At(i int) (name, value string) {
	f := l.all[i]
	return l.text[f.name:f.colon], l.text[f.value:f.end]
}
