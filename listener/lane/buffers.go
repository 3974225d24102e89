package lane

import "sync"

const (
	readSize  = 8 << 10  // of a buffer for reading requests
	writeSize = 32 << 10 // of a buffer for writing answers, and for requests whose whole body was read
)

var (
	readBuffers  = sync.Pool{New: func() any { return new([readSize]byte) }}
	writeBuffers = sync.Pool{New: func() any { return new([writeSize]byte) }}
)

func takeBuffer() []byte { return readBuffers.Get().(*[readSize]byte)[:] }

func takeLarge() []byte { return writeBuffers.Get().(*[writeSize]byte)[:] }

// putBuffer puts a buffer back into the pool, unless it has grown.
func putBuffer(b []byte) {
	switch len(b) {
	case readSize:
		readBuffers.Put((*[readSize]byte)(b))
	case writeSize:
		writeBuffers.Put((*[writeSize]byte)(b))
	}
}
