package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// onSides is a Caddy with the same site on all sides (see sides).
type onSides struct {
	*caddy
	sites [len(sides)]string // their addresses
}

// startOnSides starts it. Each server has the options, and the site that is given for its side.
func startOnSides(t *testing.T, options string, site func(i int, on side) string) *onSides {
	t.Helper()
	o := &onSides{}
	var global, servers strings.Builder
	for i, on := range sides {
		o.sites[i] = freeAddress(t)
		fmt.Fprintf(&global, "servers %s {\n protocols h1 h2c\n %s\n %s\n}\n", o.sites[i], options, on.wrappers)
		fmt.Fprintf(&servers, "http://:%s {\n bind 127.0.0.1\n %s\n}\n", port(t, o.sites[i]), site(i, on))
	}
	o.caddy = startCaddyConfig(t, "{\n admin ADMIN_ADDRESS\n persist_config off\n metrics\n log {\n level ERROR\n }\n"+global.String()+"}\nhttp://SITE_ADDRESS {\n respond ok\n}\n"+servers.String())
	return o
}

// queue asks the kernel about connections to a server.
type queue struct {
	fd  int
	buf [1024]byte
}

func openQueue() (*queue, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	return &queue{fd: fd}, nil
}

func (q *queue) close() { unix.Close(q.fd) }

// errGone is the error of a connection whose server's end is closed.
var errGone = errors.New("the server has closed the connection")

// unread is how many of the bytes that were sent over conn its server has not read yet.
func (q *queue) unread(conn net.Conn, sent int) (int, error) {
	// struct nlmsghdr and struct inet_diag_req_v2, for one socket: the server's.
	const header, request, answer, ask, info = 16, 56, 72, 20, 2
	client, server := addressOf(conn.LocalAddr()), addressOf(conn.RemoteAddr())
	m := make([]byte, header+request)
	ne := binary.NativeEndian
	ne.PutUint32(m, uint32(len(m)))
	ne.PutUint16(m[4:], ask)
	ne.PutUint16(m[6:], unix.NLM_F_REQUEST)
	r := m[header:]
	r[0], r[1], r[2] = unix.AF_INET, unix.IPPROTO_TCP, 1<<(info-1)
	ne.PutUint32(r[4:], ^uint32(0)) // in any state
	binary.BigEndian.PutUint16(r[8:], server.Port())
	binary.BigEndian.PutUint16(r[10:], client.Port())
	copy(r[12:], server.Addr().AsSlice())
	copy(r[28:], client.Addr().AsSlice())
	ne.PutUint64(r[48:], ^uint64(0)) // no cookie
	if err := unix.Sendto(q.fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	n, _, err := unix.Recvfrom(q.fd, q.buf[:], 0)
	if err != nil {
		return 0, err
	}
	const listening = 10 // that is the socket which is found when there is no other one
	if b := q.buf[:n]; n >= header+answer && ne.Uint16(b[4:]) == ask && b[header+1] != listening {
		queued := int(ne.Uint32(b[header+56:]))
		for b = b[header+answer:]; len(b) >= 4; {
			length := int(ne.Uint16(b))
			if ne.Uint16(b[2:]) == info && length >= 4+136 {
				came := int(ne.Uint64(b[4+128:])) // tcpi_bytes_received
				return queued + sent - came, nil
			}
			b = b[min(len(b), (length+3)&^3):]
		}
	}
	return 0, errGone
}

func addressOf(a net.Addr) netip.AddrPort {
	at := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// readBy waits until the server has read all that was sent over conn, or until over is closed. It reports whether that was in time.
func (q *queue) readBy(conn net.Conn, sent int, over <-chan struct{}) (bool, error) {
	for end := time.Now().Add(differentialPatience); ; time.Sleep(20 * time.Microsecond) {
		switch n, err := q.unread(conn, sent); {
		case errors.Is(err, errGone), err == nil && n <= 0:
			return true, nil
		case err != nil:
			return false, err
		}
		select {
		case <-over:
			return true, nil
		default:
		}
		if time.Now().After(end) {
			return false, nil
		}
	}
}

// TestUnread: what a server has not read is told, as long as its connection is there.
func TestUnread(t *testing.T) {
	t.Parallel()
	q, err := openQueue()
	if err != nil {
		t.Fatal(err)
	}
	defer q.close()
	read, closed := make(chan int), make(chan struct{})
	address := startRaw(t, func(conn *net.TCPConn) {
		for n := range read {
			_, _ = io.ReadFull(conn, make([]byte, n))
			read <- n
		}
		_ = conn.SetLinger(0)
		conn.Close()
		close(closed)
	})
	conn := dialRaw(t, address).conn
	if _, err := io.WriteString(conn, "0123456789"); err != nil {
		t.Fatal(err)
	}
	for _, left := range []int{10, 7, 0} {
		if left < 10 {
			read <- map[int]int{7: 3, 0: 7}[left]
			<-read
		}
		if n, err := q.unread(conn, 10); n != left || err != nil {
			t.Errorf("%d bytes are not read, %v, want %d", n, err, left)
		}
	}
	if n, err := q.unread(conn, 12); n != 2 || err != nil {
		t.Errorf("%d bytes are not read, %v, want those that have not come", n, err)
	}
	close(read)
	<-closed
	if _, err := q.unread(conn, 10); !errors.Is(err, errGone) {
		t.Errorf("when it is closed: %v", err)
	}
}
