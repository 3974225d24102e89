package integration

import (
	"bufio"
	"cmp"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"time"
)

// nearEnd is the client's end of an exchange.
type nearEnd struct {
	*run
	conn net.Conn
	br   *bufio.Reader
	log  strings.Builder
	over bool // the connection
}

// talk makes the exchange as its client, and returns what it got.
func (r *run) talk() string {
	network, address := "tcp", r.address
	if path, ok := strings.CutPrefix(address, "unix/"); ok {
		network, address = "unix", path
	}
	conn, err := net.DialTimeout(network, address, differentialPatience)
	if err != nil {
		return "[dial] " + err.Error()
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(differentialPatience))
	if r.site.tls {
		secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}, ServerName: r.host})
		conn = secure
	}
	c := &nearEnd{run: r, conn: conn, br: bufio.NewReader(conn)}
	if r.x.near != nil {
		r.x.near(c)
	} else {
		c.standard()
	}
	return c.log.String()
}

// standard sends the requests and reads the answers.
func (c *nearEnd) standard() {
	for i, request := range append([]string{cmp.Or(c.x.request, get("/"))}, c.x.more...) {
		if i == 0 {
			c.send(request, c.x.uploads)
		} else {
			c.send(request, nil)
		}
		if c.x.leaves == beforeAnswer {
			<-c.events.of("request read")
			return
		}
		if c.answer(method(request)); c.over {
			break
		}
	}
	c.end()
}

// method is that of a request.
func method(request string) string {
	method, _, _ := strings.Cut(request, " ")
	return method
}

// send sends a request and the pieces of its body, without waiting.
func (c *nearEnd) send(request string, uploads []string) {
	_, after, _ := strings.Cut(request, "\r\n\r\n")
	sent := bodyBytes(after)
	go func() {
		if _, err := io.WriteString(c.conn, c.text(request)); err != nil {
			return
		}
		for _, piece := range uploads {
			if c.x.waits {
				<-c.events.of("100")
			} else if !c.uploaded.await(sent) {
				return
			}
			if _, err := io.WriteString(c.conn, piece); err != nil {
				return
			}
			sent += bodyBytes(piece)
		}
	}()
}

// answer reads an answer, and those that announce it.
func (c *nearEnd) answer(method string) {
	for {
		head, err := readMessageHead(c.br)
		c.log.WriteString(head)
		if err != nil {
			c.ends(err)
			return
		}
		_, status, _ := strings.Cut(head, " ")
		switch {
		case strings.HasPrefix(status, "100"):
			c.happened("100")
			continue
		case strings.HasPrefix(status, "101"):
			return
		case strings.HasPrefix(status, "1"):
			c.happened("informed")
			continue
		}
		c.happened("100") // or never
		bodiless := method == "HEAD" || strings.HasPrefix(status, "204") || strings.HasPrefix(status, "304") || method == "CONNECT" && strings.HasPrefix(status, "2")
		if !bodiless {
			show := showBody
			if c.x.packs {
				show = showUnpacked
			}
			body, err := readMessageBody(c.br, head, true, show, func(n int) {
				c.downloaded.add(n)
				if n > 0 && c.x.leaves == inAnswer {
					c.conn.Close()
				}
			})
			if c.x.leaves == inAnswer {
				c.over = true
				return
			}
			c.log.WriteString(body)
			if err != nil {
				c.over = true
				return
			}
		}
		for _, value := range fieldValues(head, "Connection") {
			if strings.EqualFold(value, "close") {
				c.toTheEnd()
				return
			}
		}
		if strings.HasPrefix(head, "HTTP/1.0") && len(fieldValues(head, "Connection")) == 0 {
			c.toTheEnd()
		}
		return
	}
}

// happened tells the backend's end, once.
func (c *nearEnd) happened(event string) { tell(c.events.of(event)) }

func tell(happened chan struct{}) {
	select {
	case <-happened:
	default:
		close(happened)
	}
}

// end asks once more over a connection that is still open, for a page that is no backend's, and for the end of it: this shows that
// nothing else came, and that it was kept.
func (c *nearEnd) end() {
	if c.over || c.x.leaves != stays {
		return
	}
	_, _ = io.WriteString(c.conn, "GET /differential-end HTTP/1.1\r\nHost: "+c.host+"\r\nConnection: close\r\n\r\n")
	c.log.WriteString("[one more]\n")
	c.toTheEnd()
}

// toTheEnd reads what else comes.
func (c *nearEnd) toTheEnd() {
	rest, err := io.ReadAll(c.br)
	c.log.Write(rest)
	if err == nil {
		err = io.EOF
	}
	c.ends(err)
}

func (c *nearEnd) ends(err error) {
	c.over = true
	if !strings.HasSuffix(c.log.String(), "\n") && c.log.Len() > 0 {
		c.log.WriteString("\n")
	}
	c.log.WriteString(broken(err) + "\n")
}
