package lane

import "sync"

const (
	readSize  = 4 << 10  // of a buffer for reading requests
	writeSize = 32 << 10 // of a buffer for writing answers
)

var (
	readBuffers  = sync.Pool{New: func() any { return new([readSize]byte) }}
	writeBuffers = sync.Pool{New: func() any { return new([writeSize]byte) }}
)

func takeBuffer() []byte { return readBuffers.Get().(*[readSize]byte)[:] }

// putBuffer gives back a buffer, unless it has grown.
func putBuffer(b []byte) {
	if len(b) == readSize {
		readBuffers.Put((*[readSize]byte)(b))
	}
}
