package h1_test

import (
	"strconv"
	"testing"

	"github.com/ballastlb/ballast/listener/h1"
)

const (
	wrkHead     = "GET /hello?name=world HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: wrk/4.2.0\r\nAccept: */*\r\n\r\n"
	browserHead = "GET /assets/products/overview.html?page=2&sort=price HTTP/1.1\r\nHost: shop.example.com\r\nConnection: keep-alive\r\n" +
		"Cache-Control: max-age=0\r\nsec-ch-ua: \"Chromium\";v=\"130\", \"Google Chrome\";v=\"130\", \"Not?A_Brand\";v=\"99\"\r\nsec-ch-ua-mobile: ?0\r\n" +
		"sec-ch-ua-platform: \"Linux\"\r\nUpgrade-Insecure-Requests: 1\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36\r\n" +
		"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8\r\nSec-Fetch-Site: same-origin\r\n" +
		"Sec-Fetch-Mode: navigate\r\nReferer: https://shop.example.com/assets/products/\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n" +
		"Accept-Language: en-US,en;q=0.9,de;q=0.8\r\nCookie: session=8f14e45fceea167a5a36dedd4bea2543; theme=dark; consent=1\r\n\r\n"
)

func BenchmarkRead(b *testing.B) {
	for _, c := range []struct{ name, raw string }{{"wrk", wrkHead}, {"browser", browserHead}} {
		b.Run(c.name, func(b *testing.B) {
			raw, from := make([]byte, len(c.raw)), []byte(c.raw)
			var h h1.Head
			b.ReportAllocs()
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				copy(raw, from)
				h.Reset()
				if reason := h.Read(raw, most); reason != h1.Plain {
					b.Fatal(reason)
				}
			}
		})
	}
}

// BenchmarkDrip is a head with one long line that comes byte by byte: the time grows with its length, and not faster.
func BenchmarkDrip(b *testing.B) {
	for _, size := range []int{2 << 10, 16 << 10} {
		for _, part := range []string{"GET /", "GET /?", "GET / HTTP/1.1\r\nA: "} {
			b.Run(strconv.Quote(part)+"/bytes="+strconv.Itoa(size), func(b *testing.B) {
				raw := make([]byte, size)
				for i := range raw {
					raw[i] = 'a'
				}
				copy(raw, part)
				var h h1.Head
				for b.Loop() {
					h.Reset()
					for n := range raw {
						if reason := h.Read(raw[:n], size); reason != h1.Incomplete {
							b.Fatal(reason)
						}
					}
				}
			})
		}
	}
}

// TestAllocs: a head that is used again takes no memory.
func TestAllocs(t *testing.T) {
	var h h1.Head
	raw := []byte(browserHead)
	h.Read(raw, most)
	if n := testing.AllocsPerRun(100, func() {
		h.Reset()
		if reason := h.Read(raw, most); reason != h1.Plain {
			t.Fatal(reason)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
