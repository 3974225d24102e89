package listener

import (
	"context"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/caddyserver/caddy/v2"
)

// steer makes the kernel send new connections to the oldest of the sockets that listen on the address of s with SO_REUSEPORT, in all
// processes. When that one is closed, the youngest takes its place. See SO_ATTACH_REUSEPORT_CBPF in socket(7).
//
// Go's listening sockets are MPTCP sockets where the kernel supports that, and those do not accept the program. But the program applies to
// all sockets of the address, whichever it is attached to, so steer attaches it to a socket without MPTCP. It returns the connections that
// this socket has got until then.
func steer(s socket) ([]net.Conn, error) {
	addr, ok := s.Addr().(*net.TCPAddr)
	if !ok {
		return nil, errNoSteering
	}
	at := caddy.NetworkAddress{Network: s.network, Host: addr.IP.String(), StartPort: uint(addr.Port), EndPort: uint(addr.Port)}
	if addr.Zone != "" {
		at.Host += "%" + addr.Zone
	}
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	opened, err := at.Listen(context.Background(), 0, config)
	if err != nil {
		return nil, err
	}
	ln := opened.(net.Listener)
	defer ln.Close()
	signpost, ok := socketOf(ln)
	if !ok {
		return nil, errNoSteering
	}
	first := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	raw, err := signpost.SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &unix.SockFprog{Len: 1, Filter: &first})
	})
	if err != nil {
		return nil, err
	}
	return queued(signpost), os.NewSyscallError("setsockopt", failed)
}

// queued accepts all connections in the accept queue of the socket.
func queued(of syscall.Conn) (all []net.Conn) {
	raw, err := of.SyscallConn()
	if err != nil {
		return nil
	}
	_ = raw.Control(func(fd uintptr) {
		for {
			accepted, _, err := unix.Accept4(int(fd), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if err == unix.EINTR || err == unix.ECONNABORTED {
				continue
			}
			if err != nil {
				return
			}
			if c := connOf(accepted); c != nil {
				all = append(all, c)
			}
		}
	})
	return all
}

// connOf returns the connection with that descriptor, or nil if the peer has closed it.
func connOf(fd int) net.Conn {
	file := os.NewFile(uintptr(fd), "")
	defer file.Close()
	c, err := net.FileConn(file)
	if err != nil {
		return nil
	}
	return c
}
