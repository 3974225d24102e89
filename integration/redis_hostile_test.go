package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// hostileRedis is a server that answers as a Redis does, but for the script.
type hostileRedis struct {
	addr   string
	answer string // to a run of the script
	again  bool   // the answer goes on and on
}

func startHostileRedis(t *testing.T, answer string, again bool) *hostileRedis {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	h := &hostileRedis{l.Addr().String(), answer, again}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go h.serve(conn)
		}
	}()
	return h
}

func (h *hostileRedis) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for {
		command, err := readCommand(in)
		if err != nil {
			return
		}
		switch strings.ToLower(command) {
		case "ping":
			_, err = io.WriteString(conn, "+PONG\r\n")
		case "evalsha", "eval":
			for err == nil {
				if _, err = io.WriteString(conn, h.answer); !h.again {
					break
				}
			}
		default:
			_, err = io.WriteString(conn, "+OK\r\n")
		}
		if err != nil {
			return
		}
	}
}

// readCommand reads a command and returns its first word.
func readCommand(in *bufio.Reader) (word string, err error) {
	length := func(kind byte) (int, error) {
		line, err := in.ReadString('\n')
		if err != nil {
			return 0, err
		}
		if line[0] != kind {
			return 0, fmt.Errorf("%q is no command", line)
		}
		return strconv.Atoi(strings.TrimSpace(line[1:]))
	}
	n, err := length('*')
	for i := 0; i < n && err == nil; i++ {
		var size int
		if size, err = length('$'); err != nil {
			break
		}
		text := make([]byte, size+2)
		if _, err = io.ReadFull(in, text); err == nil && i == 0 {
			word = string(text[:size])
		}
	}
	return word, err
}

// TestHostileRedis: whatever a Redis answers, Caddy goes on, limits by itself, and holds nobody for longer than its limit does.
func TestHostileRedis(t *testing.T) {
	t.Parallel()
	result := func(refused, wait, tokens string) string {
		return fmt.Sprintf("*3\r\n:%s\r\n:%s\r\n$%d\r\n%s\r\n", refused, wait, len(tokens), tokens)
	}
	answers := map[string]struct {
		answer string
		again  bool
	}{
		"text of 9 EB":         {"$9223372036854775807\r\n", false},
		"text of 8 GB":         {"$8589934592\r\n", false},
		"list of 2 G elements": {"*2147483647\r\n", false},
		"lists in lists":       {strings.Repeat("*1\r\n", 1<<16), true},
		"endless text":         {strings.Repeat("x", 1<<16), true},
		"endless status":       {"+" + strings.Repeat("x", 1<<16), true},
		"endless error":        {"-" + strings.Repeat("x", 4<<20) + "\r\n", false},
		"text of 8 GB inside":  {"*3\r\n:0\r\n:0\r\n$8589934592\r\n", false},
		"wait of 292 years":    {result("1", "9223372036854775", "0"), false},
		"wait that overflows":  {result("1", "9223372036854775807", "0"), false},
		"wait below zero":      {result("1", "-9223372036854775808", "0"), false},
		"bucket 99":            {result("99", "1", "0"), false},
		"bucket -1":            {result("-1", "1", "0"), false},
		"tokens of no number":  {result("0", "0", "nan"), false},
		"infinite tokens":      {result("0", "0", "inf"), false},
		"texts":                {"*3\r\n+0\r\n+0\r\n+0\r\n", false},
		"two elements":         {"*2\r\n:0\r\n:0\r\n", false},
		"nothing":              {"$-1\r\n", false},
		"no script for ever":   {"-NOSCRIPT No matching script.\r\n", false},
		"sent elsewhere":       {"-MOVED 1 127.0.0.1:1\r\n", false},
		"HTTP":                 {"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", false},
		"zeros":                {"\x00\x00\x00\x00\r\n", false},
		"half an answer":       {"*3\r\n:0\r\n", false},
	}
	site, zones := "", make(map[string]string)
	for name, a := range answers {
		zone := fmt.Sprintf("z%d", len(zones))
		zones[name] = zone
		site += fmt.Sprintf("handle /%s {\n ip_rate_limit {\n zone %s\n rate 1/h\n burst 5\n redis redis://%s {\n timeout 1s\n }\n }\n respond ok\n}\n",
			zone, zone, startHostileRedis(t, a.answer, a.again).addr)
	}
	c := startCaddy(t, site)
	for name, zone := range zones {
		admitted := 0
		for range 12 {
			start := time.Now()
			status, header, _ := c.get("/" + zone)
			switch status {
			case http.StatusOK:
				admitted++
			case http.StatusTooManyRequests:
				if wait, err := strconv.Atoi(header.Get("Retry-After")); err != nil || wait < 1 || wait > 3600 {
					t.Errorf("%s: Retry-After %q", name, header.Get("Retry-After"))
				}
			default:
				t.Errorf("%s: status %d", name, status)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("%s: a request took %v", name, took)
			}
		}
		if admitted != 5 {
			t.Errorf("%s: %d of 12 admitted, want the 5 of the limit", name, admitted)
		}
		if status, text := c.askAdmin(http.MethodGet, "/load_balancer/rate_limits/"+zone+"/127.0.0.1"); status != http.StatusOK || len(text) > 4096 {
			t.Errorf("%s: the API answers %d with %d bytes", name, status, len(text))
		}
	}
	if most := c.peak(); most > 512<<20 {
		t.Errorf("caddy has taken %d MB", most>>20)
	}
	for line := range strings.Lines(c.log.String()) {
		if len(line) > 4096 {
			t.Errorf("a line of %d bytes in the log: %.200s", len(line), line)
		}
	}
}
