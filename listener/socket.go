package listener

import (
	"errors"
	"net"
	"os"
	"reflect"
	"strings"
	"syscall"
)

// listening has the methods that listening sockets of an operating system share in Go.
type listening interface {
	net.Listener
	syscall.Conn
	File() (*os.File, error)
}

// socket is the listening socket of a config.
type socket struct {
	listening
	network   string // as configured
	address   string // as the key of the door; equal for the sockets of later configs that listen there
	port      int    // 0 for a socket without one or one that was passed in
	shared    bool   // all configs use the same kernel socket
	inherited bool   // passed in to the process; another process may use it after this one
}

// socketOf finds the socket below the wrappers of ln. Caddy's own wrapper is among them and shows how the socket was configured.
func socketOf(ln net.Listener) (s socket, ok bool) {
	var configured string // network and address, if Caddy has opened the socket or was given it
	for ln != nil {
		value := reflect.Indirect(reflect.ValueOf(ln))
		if value.Kind() != reflect.Struct {
			return s, false
		}
		for _, name := range []string{"lnKey", "mapKey"} {
			if key := value.FieldByName(name); key.IsValid() && key.Kind() == reflect.String {
				configured = key.String()
			}
		}
		if l, is := ln.(listening); is {
			s.listening = l
			break
		}
		inner := value.FieldByName("Listener")
		if !inner.IsValid() || !inner.CanInterface() {
			return s, false
		}
		ln, _ = inner.Interface().(net.Listener)
	}
	if s.listening == nil || configured == "" {
		return s, false
	}
	s.network, _, _ = strings.Cut(configured, "/")
	switch addr := s.Addr().(type) {
	case *net.UnixAddr:
		s.shared = true
		s.address = configured
	case *net.TCPAddr:
		s.port = addr.Port
		s.address = s.network + "/" + addr.String()
	}
	if s.network == "fd" {
		s.shared, s.inherited, s.port, s.address = true, true, 0, configured
	}
	return s, true
}

// errNoSteering is returned where steering is not expected to work.
var errNoSteering = errors.New("connections cannot be steered here")

// duplicate returns another listener on the same socket, which keeps the socket open.
func (s socket) duplicate() (net.Listener, error) {
	file, err := s.File()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return net.FileListener(file)
}
