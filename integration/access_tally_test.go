package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// logTally counts what an access log tells. It reads on where it stopped, so that a long log is read once.
type logTally struct {
	file   string
	offset int64
	pools  map[string]*loggedPool
	silent int // lines of requests that no load balancer handled
}

// loggedPool is what the access log tells of a pool.
type loggedPool struct {
	statuses    map[int]int // requests by the status that they were answered with
	unattempted int         // requests without an attempt
	again       int         // attempts after the first of their request, copies among them
	backends    map[string]*loggedBackend
}

// loggedBackend is what the access log tells of a backend.
type loggedBackend struct {
	attempts int
	last     int               // attempts that no other followed
	classes  [pool.Classes]int // answers by the class of their status
}

func newLogTally(file string) *logTally {
	return &logTally{file: file, pools: make(map[string]*loggedPool)}
}

// read counts the whole lines that have come since the last time.
func (l *logTally) read() error {
	file, err := os.Open(l.file)
	if err != nil {
		return err
	}
	defer file.Close()
	buf := make([]byte, 1<<20)
	for {
		n, err := file.ReadAt(buf, l.offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		end := bytes.LastIndexByte(buf[:n], '\n') + 1
		for line := range bytes.Lines(buf[:end]) {
			l.add(line)
		}
		if l.offset += int64(end); end == 0 {
			return nil
		}
	}
}

func (l *logTally) add(text []byte) {
	var line accessLine
	if json.Unmarshal(text, &line) != nil || line.Msg != "handled request" {
		return
	}
	if line.LB == nil {
		l.silent++
		return
	}
	p := l.pools[line.LB.Pool]
	if p == nil {
		p = &loggedPool{statuses: make(map[int]int), backends: make(map[string]*loggedBackend)}
		l.pools[line.LB.Pool] = p
	}
	p.statuses[line.Status]++
	if len(line.LB.Attempts) == 0 {
		p.unattempted++
		return
	}
	p.again += len(line.LB.Attempts) - 1
	for i, a := range line.LB.Attempts {
		b := p.backends[a.Backend]
		if b == nil {
			b = new(loggedBackend)
			p.backends[a.Backend] = b
		}
		b.attempts++
		if i == len(line.LB.Attempts)-1 {
			b.last++
		}
		if a.Status != 0 {
			b.classes[pool.Class(a.Status)]++
		}
	}
}
