package lane

import (
	"net/http"
	"slices"
	"strings"
)

// fields are the fields of an answer. They are written in the order of Caddy's server: sorted by name, and those with the same name in the
// order in which they were added.
type fields struct {
	list  []fieldOf
	space [24]fieldOf
}

type fieldOf struct{ name, value string }

func (f *fields) reset() {
	clear(f.list)
	f.list = f.space[:0]
}

func (f *fields) add(name, value string) { f.list = append(f.list, fieldOf{name, value}) }

func (f *fields) addAll(header http.Header) {
	for name, values := range header {
		for _, v := range values {
			f.add(name, v)
		}
	}
}

func (f *fields) has(name string) bool {
	return slices.ContainsFunc(f.list, func(other fieldOf) bool { return other.name == name })
}

// appendTo appends the fields.
func (f *fields) appendTo(b []byte) []byte {
	if len(f.list) <= len(f.space) {
		for i := 1; i < len(f.list); i++ { // an insertion sort: most are in order
			for k := i; k > 0 && f.list[k].name < f.list[k-1].name; k-- {
				f.list[k], f.list[k-1] = f.list[k-1], f.list[k]
			}
		}
	} else {
		slices.SortStableFunc(f.list, func(x, y fieldOf) int { return strings.Compare(x.name, y.name) })
	}
	for i := range f.list {
		b = appendField(b, f.list[i].name, f.list[i].value)
	}
	return b
}

// header returns the fields for the log.
func (f *fields) header() http.Header {
	h := make(http.Header, len(f.list)+1)
	for _, field := range f.list {
		h[field.name] = append(h[field.name], field.value)
	}
	return h
}
