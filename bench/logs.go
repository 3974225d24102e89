package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
)

// accessLog is the log to which a proxy writes a line for each request.
type accessLog interface {
	empty() error
	lines() (int, error)
}

// checkLog returns an error unless the log has most of the requests. A datagram may get lost on a busy machine, but the sender had the work
// anyway.
func checkLog(log accessLog, requests int) error {
	lines, err := log.lines()
	if err != nil {
		return fmt.Errorf("access log: %w", err)
	}
	if lines < requests/2 {
		return fmt.Errorf("access log has %d lines after %d requests", lines, requests)
	}
	return nil
}

// logFile is an access log in the file with that name.
type logFile string

func (f logFile) empty() error { return os.Truncate(string(f), 0) }

func (f logFile) lines() (n int, err error) {
	file, err := os.Open(string(f))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	buf := make([]byte, 1<<20)
	for {
		m, err := file.Read(buf)
		n += bytes.Count(buf[:m], []byte{'\n'})
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// syslog receives an access log over UDP, as a log daemon does, and counts its lines.
type syslog struct {
	conn     *net.UDPConn
	received atomic.Int64
}

// startSyslog starts a syslog, which runs until it is closed.
func startSyslog() (*syslog, error) {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	s := &syslog{conn: conn}
	if err := conn.SetReadBuffer(4 << 20); err != nil {
		s.close()
		return nil, err
	}
	go s.receive()
	return s, nil
}

func (s *syslog) receive() {
	buf := make([]byte, 64<<10)
	for {
		if _, err := s.conn.Read(buf); err != nil {
			return // the socket is closed
		}
		s.received.Add(1)
	}
}

func (s *syslog) close()              { _ = s.conn.Close() }
func (s *syslog) address() string     { return s.conn.LocalAddr().String() }
func (s *syslog) empty() error        { s.received.Store(0); return nil }
func (s *syslog) lines() (int, error) { return int(s.received.Load()), nil }
