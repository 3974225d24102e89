package listener

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// steer has the kernel send new connections to the socket at index among those that listen on the same address with SO_REUSEPORT, of
// all processes. The first socket is the oldest; when one is closed, the last takes its place. An index that does not exist selects as if
// there were no program. See SO_ATTACH_REUSEPORT_CBPF in socket(7).
func steer(of syscall.Conn, index uint32) error {
	program := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: index}}
	return attach(of, unix.SO_ATTACH_REUSEPORT_CBPF, program)
}

// shun has the kernel drop requests for new connections to the socket, while those that are being made can be completed. Clients repeat
// such a request after a second.
func shun(of syscall.Conn) error {
	const flags, syn, ack = 13, 0x02, 0x10 // of the TCP header
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: syn | ack},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: syn, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
	}
	return attach(of, unix.SO_ATTACH_FILTER, program)
}

func attach(of syscall.Conn, option int, program []unix.SockFilter) error {
	raw, err := of.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, option, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
	if err != nil {
		return err
	}
	return failed
}

// queued takes all connections from the accept queue of the socket.
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

// connOf returns the connection that fd is, nil if the peer has gone.
func connOf(fd int) net.Conn {
	file := os.NewFile(uintptr(fd), "")
	defer file.Close()
	c, err := net.FileConn(file)
	if err != nil {
		return nil
	}
	return c
}
