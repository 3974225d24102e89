//go:build unix

package engine

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

// sealer writes a server's records of TLS 1.3 from the end of the handshake on. crypto/tls itself sends nothing but answers then.
type sealer struct {
	to     net.Conn
	suite  uint16
	secret []byte
	next   uint64 // number of the next record
}

// Types of records.
const (
	alertRecord     = 21
	handshakeRecord = 22
	dataRecord      = 23
)

// newSealer continues a connection that has sent nothing since its handshake. log is what was written to its KeyLogWriter.
func newSealer(to net.Conn, over *tls.Conn, log string) (*sealer, error) {
	for line := range strings.Lines(log) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "SERVER_TRAFFIC_SECRET_0" {
			secret, err := hex.DecodeString(fields[2])
			return &sealer{to: to, suite: over.ConnectionState().CipherSuite, secret: secret}, err
		}
	}
	return nil, fmt.Errorf("no secret of the server in %q", log)
}

// derive is HKDF-Expand-Label of RFC 8446, section 7.1.
func (s *sealer) derive(label string, length int) []byte {
	newHash := sha256.New
	if s.suite == tls.TLS_AES_256_GCM_SHA384 {
		newHash = sha512.New384
	}
	label = "tls13 " + label
	info := append(binary.BigEndian.AppendUint16(nil, uint16(length)), byte(len(label)))
	key, err := hkdf.Expand(newHash, s.secret, string(append(append(info, label...), 0)), length)
	if err != nil {
		panic(err)
	}
	return key
}

// seal is a record.
func (s *sealer) seal(kind byte, text []byte) []byte {
	var seals cipher.AEAD
	var err error
	switch s.suite {
	case tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384:
		length := 16
		if s.suite == tls.TLS_AES_256_GCM_SHA384 {
			length = 32
		}
		var block cipher.Block
		if block, err = aes.NewCipher(s.derive("key", length)); err == nil {
			seals, err = cipher.NewGCM(block)
		}
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		seals, err = chacha20poly1305.New(s.derive("key", chacha20poly1305.KeySize))
	}
	if err != nil {
		panic(err)
	}
	nonce := s.derive("iv", seals.NonceSize())
	for i, b := range binary.BigEndian.AppendUint64(nil, s.next) {
		nonce[len(nonce)-8+i] ^= b
	}
	s.next++
	header := []byte{dataRecord, 3, 3}
	header = binary.BigEndian.AppendUint16(header, uint16(len(text)+1+seals.Overhead()))
	return seals.Seal(slices.Clone(header), nonce, append(slices.Clone(text), kind), header)
}

// data is what the HTTP client gets.
func (s *sealer) data(text string) (records []byte) {
	for part := range slices.Chunk([]byte(text), 16<<10) {
		records = append(records, s.seal(dataRecord, part)...)
	}
	return records
}

// newTicket is a session ticket, as a message of the handshake.
func newTicket() []byte {
	body := []byte{0, 0, 0x1c, 0x20, 1, 2, 3, 4, 1, 0} // two hours, what is added to its age, a nonce of one byte
	body = append(binary.BigEndian.AppendUint16(body, 200), make([]byte, 200)...)
	body = append(body, 0, 0) // no extensions
	return append([]byte{4, 0, 0, byte(len(body))}, body...)
}

// ticket is a session ticket in a record of its own.
func (s *sealer) ticket() []byte { return s.seal(handshakeRecord, newTicket()) }

// keyUpdate changes the server's key, and may ask for another one of the client.
func (s *sealer) keyUpdate(asks byte) []byte {
	record := s.seal(handshakeRecord, []byte{24, 0, 0, 1, asks})
	s.secret, s.next = s.derive("traffic upd", len(s.secret)), 0
	return record
}

// send writes what is to arrive at once. The client may have closed the connection.
func (s *sealer) send(records ...[]byte) {
	_, _ = s.to.Write(bytes.Join(records, nil))
}

// A backend may send session tickets and new keys at any time. The connection is kept, if nothing else came and nothing is incomplete. No
// request is lost, although none of these can be made again, and each gets its own answer.
func TestLateTLSMessages(t *testing.T) {
	cert, trusted := certificate(t, time.Now().Add(time.Hour))
	const evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	after := func(what func(s *sealer) []byte) func(*sealer, string, string) {
		return func(s *sealer, head, body string) {
			s.send(s.data(head + body))
			s.send(what(s))
		}
	}
	var begun []byte // of the one connection that is tested at a time
	for name, test := range map[string]struct {
		answer func(s *sealer, head, body string)
		kept   bool
	}{
		"nothing":                {after(func(*sealer) []byte { return nil }), true},
		"ticket":                 {after((*sealer).ticket), true},
		"ticket at once":         {func(s *sealer, head, body string) { s.send(s.data(head+body), s.ticket()) }, true},
		"ticket before":          {func(s *sealer, head, body string) { s.send(s.ticket()); s.send(s.data(head + body)) }, true},
		"ticket before, at once": {func(s *sealer, head, body string) { s.send(s.ticket(), s.data(head+body)) }, true},
		"ticket within":          {func(s *sealer, head, body string) { s.send(s.data(head)); s.send(s.ticket()); s.send(s.data(body)) }, true},
		"tickets everywhere": {func(s *sealer, head, body string) {
			s.send(s.ticket(), s.data(head), s.ticket(), s.data(body), s.ticket())
		}, true},
		"10 tickets":             {after(func(s *sealer) []byte { return bytes.Join(repeated(10, s.ticket), nil) }), true},
		"100 tickets":            {after(func(s *sealer) []byte { return bytes.Join(repeated(100, s.ticket), nil) }), false}, // more than crypto/tls bears
		"10 tickets in a record": {after(func(s *sealer) []byte { return s.seal(handshakeRecord, bytes.Join(repeated(10, newTicket), nil)) }), true},
		"30 tickets in a record": {after(func(s *sealer) []byte { return s.seal(handshakeRecord, bytes.Join(repeated(30, newTicket), nil)) }), false},
		"ticket in two records": {after(func(s *sealer) []byte {
			m := newTicket()
			return append(s.seal(handshakeRecord, m[:9]), s.seal(handshakeRecord, m[9:])...)
		}), true},
		"key update":              {after(func(s *sealer) []byte { return s.keyUpdate(0) }), true},
		"key update, mutual":      {after(func(s *sealer) []byte { return s.keyUpdate(1) }), true},
		"key update before":       {func(s *sealer, head, body string) { s.send(s.keyUpdate(1), s.data(head+body)) }, true},
		"key update and ticket":   {after(func(s *sealer) []byte { return append(s.keyUpdate(1), s.ticket()...) }), true},
		"ticket and byte":         {after(func(s *sealer) []byte { return append(s.ticket(), s.data("x")...) }), false},
		"ticket and answer":       {after(func(s *sealer) []byte { return append(s.ticket(), s.data(evil)...) }), false},
		"key update and answer":   {after(func(s *sealer) []byte { return append(s.keyUpdate(1), s.data(evil)...) }), false},
		"ticket and end":          {after(func(s *sealer) []byte { return append(s.ticket(), s.seal(alertRecord, []byte{1, 0})...) }), false},
		"ticket of another key":   {after(func(s *sealer) []byte { s.next += 7; return s.ticket() }), false},
		"unknown message":         {after(func(s *sealer) []byte { return s.seal(handshakeRecord, []byte{99, 0, 0, 1, 0}) }), false},
		"part of a ticket's text": {after(func(s *sealer) []byte { m := s.ticket(); return m[:100] }), false},
		"part of its header":      {after(func(s *sealer) []byte { m := s.ticket(); return m[:3] }), false},
		"record of two, then the other": {func(s *sealer, head, body string) {
			rest := begun
			message := newTicket()
			begun = message[50:]
			if rest != nil {
				s.send(s.seal(handshakeRecord, rest))
			}
			s.send(s.data(head+body), s.seal(handshakeRecord, message[:50]))
		}, true},
	} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, chunked %v", name, chunked), func(t *testing.T) {
				begun = nil
				said := make(chan struct{}, 1)
				b := new(secureBackend)
				b.backend = newBackend(t, func(_ int, p *peer) {
					var log bytes.Buffer
					over := tls.Server(p.Conn, &tls.Config{
						Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, KeyLogWriter: &log,
					})
					if over.Handshake() != nil {
						return
					}
					b.handshakes.Add(1)
					s, err := newSealer(p.Conn, over, log.String())
					if err != nil {
						t.Error(err)
						return
					}
					for requests := bufio.NewReader(over); ; {
						r, err := http.ReadRequest(requests)
						if err != nil {
							return
						}
						asked, err := io.ReadAll(r.Body)
						if err != nil {
							return
						}
						head, body := "HTTP/1.1 200 OK\r\nContent-Length: 12000\r\n\r\n", strings.Repeat(string(asked), 3000)
						if chunked {
							head, body = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
						}
						test.answer(s, head, body)
						said <- struct{}{}
					}
				})
				c := b.client(&tls.Config{RootCAs: trusted, ClientSessionCache: tls.NewLRUClientSessionCache(0)}, false)
				const requests = 6
				for i := range requests {
					id := fmt.Sprintf("%04d", i)
					if _, got, err := ask(t, c, http.MethodPost, id); got != strings.Repeat(id, 3000) || err != nil {
						t.Fatalf("request %d: %d bytes, %.20q, %v", i, len(got), got, err)
					}
					<-said
				}
				want := int32(requests)
				if test.kept {
					want = 1
				}
				if got := b.handshakes.Load(); got != want {
					t.Errorf("%d handshakes, want %d", got, want)
				}
			})
		}
	}
}

// repeated is what n calls return.
func repeated(n int, of func() []byte) (all [][]byte) {
	for range n {
		all = append(all, of())
	}
	return all
}
