package integration

import (
	"fmt"
	"strings"
)

// How the messages of the differential test are written down.

// none is the answer of a backend that does not answer.
const none = "none"

// ok200 is an ordinary answer.
const ok200 = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"

// requestHead is a request without a body: its first line and fields, besides Host and User-Agent.
func requestHead(line string, fields ...string) string {
	return line + "\r\nHost: SITE\r\nUser-Agent: test\r\n" + lines(fields) + "\r\n"
}

// bare is a request of just these lines.
func bare(all ...string) string { return lines(all) + "\r\n" }

func lines(fields []string) string {
	var text strings.Builder
	for _, field := range fields {
		text.WriteString(field + "\r\n")
	}
	return text.String()
}

func get(path string, fields ...string) string {
	return requestHead("GET "+path+" HTTP/1.1", fields...)
}

// sized is a request with a body of a length that is known.
func sized(method, body string, fields ...string) string {
	return requestHead(method+" /upload HTTP/1.1", append([]string{"Content-Type: text/plain", fmt.Sprintf("Content-Length: %d", len(body))}, fields...)...) + body
}

// chunk is a chunk of a body; of nothing, it is the last one.
func chunk(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }

// inChunks is a body in those chunks and the end.
func inChunks(parts ...string) string {
	var text strings.Builder
	for _, part := range parts {
		text.WriteString(chunk(part))
	}
	return text.String() + "0\r\n\r\n"
}

// withTrailers is a body in one chunk, with trailers.
func withTrailers(body string, trailers ...string) string {
	return chunk(body) + "0\r\n" + lines(trailers) + "\r\n"
}

func chunkedRequest(method, body string, fields ...string) string {
	return requestHead(method+" /upload HTTP/1.1", append([]string{"Content-Type: text/plain", "Transfer-Encoding: chunked"}, fields...)...) + body
}

// answer is an answer with a body of a length that is known.
func answer(status, body string, fields ...string) string {
	return "HTTP/1.1 " + status + "\r\n" + lines(append([]string{"Content-Type: text/plain", fmt.Sprintf("Content-Length: %d", len(body))}, fields...)) + "\r\n" + body
}

// answerHead is an answer of just a status and fields, and what comes after them.
func answerHead(status string, fields ...string) string {
	return "HTTP/1.1 " + status + "\r\n" + lines(fields) + "\r\n"
}

func chunkedAnswer(status, body string, fields ...string) string {
	return answerHead(status, append([]string{"Content-Type: text/plain", "Transfer-Encoding: chunked"}, fields...)...) + body
}

// filled is a text of that many bytes.
func filled(n int) string {
	const pattern = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-\n"
	return strings.Repeat(pattern, n/len(pattern)+1)[:n]
}
