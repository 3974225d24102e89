package integration

import (
	"math/rand/v2"
	"net"
	"strconv"
	"syscall"
	"testing"
)

// freeAddress returns an address at which nobody listens, and which is the caller's until the test ends: servers may come and go
// there.
func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := holdPort(t, 0)
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

// freePorts returns the first of n ports in a row that are the caller's until the test ends.
func freePorts(t *testing.T, n int) int {
	t.Helper()
next:
	for range 100 {
		first := 20000 + rand.IntN(10000) // below those that connections are given
		for i := range n {
			if _, err := holdPort(t, first+i); err != nil {
				continue next
			}
		}
		return first
	}
	t.Fatal("no free ports")
	return 0
}

// holdPort keeps a port, or for 0 one that the kernel chooses, until the test ends. A socket that is bound to it and does not listen
// keeps the kernel from giving it to connections and other servers; those that listen with SO_REUSEADDR, as all do that the tests
// start, may. It is bound on all addresses, as Caddy's sites are: a connection from any of them would be in their way.
func holdPort(t *testing.T, port int) (int, error) {
	t.Helper()
	family, address := syscall.AF_INET6, syscall.Sockaddr(&syscall.SockaddrInet6{Port: port})
	syscall.ForkLock.RLock()
	socket, err := syscall.Socket(family, syscall.SOCK_STREAM, 0)
	if err != nil { // a machine without IPv6
		family, address = syscall.AF_INET, &syscall.SockaddrInet4{Port: port}
		socket, err = syscall.Socket(family, syscall.SOCK_STREAM, 0)
	}
	if err == nil {
		syscall.CloseOnExec(socket)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return 0, err
	}
	t.Cleanup(func() { _ = syscall.Close(socket) })
	if family == syscall.AF_INET6 {
		if err := syscall.SetsockoptInt(socket, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, 0); err != nil {
			return 0, err
		}
	}
	if err := syscall.SetsockoptInt(socket, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return 0, err
	}
	if err := syscall.Bind(socket, address); err != nil {
		return 0, err
	}
	bound, err := syscall.Getsockname(socket)
	if err != nil {
		return 0, err
	}
	if a, ok := bound.(*syscall.SockaddrInet6); ok {
		return a.Port, nil
	}
	return bound.(*syscall.SockaddrInet4).Port, nil
}

// port is the port of an address.
func port(t *testing.T, address string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return port
}
