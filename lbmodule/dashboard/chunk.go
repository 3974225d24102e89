package dashboard

import (
	"bytes"
	"compress/flate"
	"fmt"
	"sync"
)

// chunk is a server-sent event, made once for all who get it.
type chunk struct {
	plain  []byte
	packed func() []byte // plain, compressed; made when first asked for
}

// gzipHeader begins a compressed stream (RFC 1952). Nobody knows the end of a stream, so there is no checksum.
var gzipHeader = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}

// newChunk makes an event. Its data is on one line in JSON, where line breaks stand for nothing but white space.
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

// pack compresses a part of a stream. It refers to nothing before it and ends on a whole byte, so that such parts can be joined in
// any order: one compression serves every viewer, whatever he has seen.
func pack(plain []byte) []byte {
	var packed bytes.Buffer
	w, _ := flate.NewWriter(&packed, flate.BestSpeed) // the level is valid
	_, _ = w.Write(plain)
	_ = w.Flush()
	return packed.Bytes()
}
