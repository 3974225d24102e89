package dashboard

import (
	"bytes"
	"compress/flate"
	"fmt"
	"sync"
)

// chunk is a server-sent event. It is encoded once for all viewers.
type chunk struct {
	plain  []byte
	packed func() []byte // plain, compressed on the first call
}

// gzipHeader begins a compressed stream (RFC 1952). The stream is cut off instead of ended, so it never needs the checksum of a trailer.
var gzipHeader = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}

// newChunk makes an event with JSON data. Line breaks would end the data of the event; in JSON they are only white space, so spaces
// replace them.
func newChunk(name, id string, data []byte) chunk {
	var text bytes.Buffer
	if id != "" {
		fmt.Fprintf(&text, "id: %s\n", id)
	}
	fmt.Fprintf(&text, "event: %s\ndata: ", name)
	text.Write(bytes.ReplaceAll(data, []byte("\n"), []byte(" ")))
	text.WriteString("\n\n")
	plain := text.Bytes()
	return chunk{plain, sync.OnceValue(func() []byte { return pack(plain) })}
}

// pack compresses a part of a stream. The result does not refer to earlier parts and ends on a byte boundary, so parts can be joined in
// any order: one compression serves every viewer, whatever it has received before.
func pack(plain []byte) []byte {
	var packed bytes.Buffer
	w, _ := flate.NewWriter(&packed, flate.BestSpeed) // the level is valid
	_, _ = w.Write(plain)
	_ = w.Flush()
	return packed.Bytes()
}
