//go:build trust

package integration

import (
	"fmt"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"
)

// curlContent is what there is to be had at the path content.
var curlContent = filled(1 << 20)

var (
	large    = "PUT PREFIXecho, 3145728 right bytes"
	sized3M  = large + ", length 3145728"
	anyOrder = func(out string) bool { return len(out) == 8*len("some text") && strings.Count(out, "some text") == 8 }
)

// curlCases are for both directives. What the backend has got stands in the answer of echo.
var curlCases = []curlCase{
	{name: "GET", over: every, args: []string{"BASE/content"}, told: "200 V 1 1048576", out: curlContent},
	{name: "HEAD", over: every, args: []string{"--head", "--output", "/dev/null", "BASE/content"}, told: "200 V 1 1048576"},
	{name: "h2c by upgrade", over: "1.1", args: []string{"--http2", "BASE/text"}, told: "200 V 1 9", out: "some text"},
	{name: "unknown length", over: since11, args: []string{"BASE/chunks"}, told: "200 V 1", out: curlContent},
	{name: "unknown length", over: "1.0", args: []string{"BASE/chunks"}, told: "200 V 1", out: curlContent},
	{name: "slow stream", over: every, args: []string{"--no-buffer", "BASE/slow"}, told: "200 V 1", out: strings.Repeat("part ", 10)},
	{name: "slow reader", over: since11, args: []string{"--limit-rate", "2M", "BASE/content"}, told: "200 V 1 1048576", out: curlContent},

	{name: "range", over: every, args: []string{"--range", "100-299", "BASE/content"}, told: "206 V 1 200", out: curlContent[100:300], answers: []int{206}},
	{name: "range from the end", over: every, args: []string{"--range", "-100", "BASE/content"}, told: "206 V 1 100", out: curlContent[1<<20-100:], answers: []int{206}},
	{name: "several ranges", over: since11, args: []string{"--range", "0-9,640-649", "BASE/content"}, check: contains("bytes 0-9/1048576", "bytes 640-649/1048576", curlContent[640:650]), answers: []int{206}},
	{name: "range that is not there", over: since11, args: []string{"--fail", "--range", "2000000-", "BASE/content"}, exit: 22, answers: []int{416}},
	{name: "resume", over: every, args: []string{"--continue-at", "-", "--output", "SOME", "BASE/content"}, told: "206 V 1 1047576", out: curlContent, answers: []int{206}},
	{name: "resume what has changed", over: since11, args: []string{"--range", "100-", "--header", `If-Range: "old"`, "BASE/content"}, told: "200 V 1 1048576", out: curlContent},
	{name: "not modified", over: since11, args: []string{"--header", `If-None-Match: "content"`, "BASE/content"}, told: "304 V 1", answers: []int{304}},
	{name: "not modified since", over: since11, args: []string{"--header", "If-Modified-Since: Mon, 01 Jan 2001 00:00:00 GMT", "BASE/content"}, told: "304 V 1", answers: []int{304}},

	{name: "PUT of a file", over: every, args: []string{"--upload-file", "LARGE", "BASE/echo"}, out: sized3M},
	{name: "PUT of a file, asked for by no 100", over: since11, args: []string{"--header", "Expect:", "--upload-file", "LARGE", "BASE/echo"}, out: sized3M},
	{name: "PUT from stdin", over: since11, args: []string{"--upload-file", "-", "BASE/echo"}, stdin: filled(300_000), out: "PUT PREFIXecho, 300000 right bytes, length -1"},
	{name: "PUT from stdin as it comes", over: since11, args: []string{"--upload-file", ".", "BASE/echo"}, stdin: filled(300_000), out: "PUT PREFIXecho, 300000 right bytes, length -1"},
	{name: "PUT of nothing", over: since11, args: []string{"--upload-file", "/dev/null", "BASE/echo"}, check: contains("PUT ", `echo, "", length`)},
	{name: "PUT with a limited rate", over: since11, args: []string{"--limit-rate", "6M", "--upload-file", "LARGE", "BASE/echo"}, out: sized3M},
	{name: "PUT from an offset", over: since11, args: []string{"--continue-at", "1048576", "--upload-file", "LARGE", "BASE/echo"}, check: contains("2097152 right bytes, length 2097152, Content-Range [bytes 1048576-3145727/3145728]")},
	// Over HTTP/1.1 Caddy reads no more of a request when the answer has begun, unless there is enable_full_duplex.
	{name: "PUT that is sent back", over: only2, args: []string{"--upload-file", "LARGE", "BASE/mirror"}, out: filled(3 << 20)},
	{name: "POST", over: every, args: []string{"--data", "name=value", "BASE/echo"}, out: `POST PREFIXecho, "name=value", length 10`},
	{name: "POST in chunks", over: only1, args: []string{"--header", "Transfer-Encoding: chunked", "--data", "name=value", "BASE/echo"}, out: `POST PREFIXecho, "name=value", length -1`},
	{name: "POST of a file", over: every, args: []string{"--data-binary", "@LARGE", "BASE/echo"}, out: "POST" + strings.TrimPrefix(sized3M, "PUT")},
	{name: "POST of a form", over: since11, args: []string{"--form", "a=b", "--form", "file=@LARGE", "BASE/form"}, out: "a=b, file with 3145728 right bytes"},
	{name: "POST after 100", over: only1, args: []string{"--header", "Expect: 100-continue", "--expect100-timeout", "60", "--data", "name=value", "BASE/echo"}, told: "200 V 1 " + strconv.Itoa(len(`POST /00-1.1/echo, "name=value", length 10`)), check: contains(`"name=value"`)},
	{name: "POST of nothing", over: every, args: []string{"--data", "", "BASE/echo"}, out: "POST PREFIXecho, \"\", length 0"},
	{name: "GET with a body", over: since11, args: []string{"--request", "GET", "--data", "asked", "BASE/echo"}, out: `GET PREFIXecho, "asked", length 5`},
	{name: "DELETE", over: since11, args: []string{"--request", "DELETE", "BASE/echo"}, out: `DELETE PREFIXecho, "", length 0`},
	{name: "OPTIONS", over: since11, args: []string{"--request", "OPTIONS", "BASE/echo"}, out: `OPTIONS PREFIXecho, "", length 0`},
	{name: "unknown method", over: since11, args: []string{"--request", "PROPFIND", "--data", "x", "BASE/echo"}, out: `PROPFIND PREFIXecho, "x", length 1`},

	{name: "compressed by the backend", over: every, args: []string{"--compressed", "BASE/gzip"}, out: curlContent},
	{name: "compressed, not unpacked", over: since11, args: []string{"--header", "Accept-Encoding: gzip", "BASE/gzip"}, out: inGzip(curlContent)},
	{name: "compressed on the way only", over: since11, args: []string{"BASE/gzip"}, told: "200 V 1", out: curlContent},
	{name: "compressed by Caddy", over: since11, args: []string{"--compressed", "BASE/packed"}, told: "200 V 1", out: curlContent},
	{name: "TE", over: only1, args: []string{"--tr-encoding", "BASE/text"}, told: "200 V 1 9", out: "some text"},
	{name: "trailers", over: since11, args: []string{"--dump-header", "SOME", "BASE/trailers"}, check: contains("x-sum: 9")},
	{name: "trailers", over: "1.0", args: []string{"BASE/trailers"}, told: "200 V 1", out: "some text"},
	{name: "103", over: since11, args: []string{"--dump-header", "SOME", "BASE/hints"}, check: contains(" 103", "link: </style.css>", " 200")},

	{name: "several URLs", over: again, args: []string{"BASE/text", "BASE/text", "BASE/chunks", "BASE/text"}, told: "200 V 1 9; 200 V 0 9; 200 V 0; 200 V 0 9", out: "some textsome text" + curlContent + "some text", answers: []int{200, 200, 200, 200}},
	{name: "several URLs, kept", over: "1.0", args: []string{"--header", "Connection: keep-alive", "BASE/text", "BASE/text"}, told: "200 V 1 9; 200 V 0 9", out: "some textsome text", answers: []int{200, 200}},
	{name: "several URLs, not kept", over: only1, args: []string{"--header", "Connection: close", "BASE/text", "BASE/text"}, told: "200 V 1 9; 200 V 1 9", out: "some textsome text", answers: []int{200, 200}},
	{name: "after an upload", over: only1, args: []string{"--upload-file", "LARGE", "BASE/echo", "--next", "--silent", "--insecure", "BASE/text"}, out: sized3M + "some text", answers: []int{200, 200}},
	{name: "at the same time", over: again, args: []string{"--parallel", "BASE/text?[1-8]"}, check: anyOrder, answers: []int{200, 200, 200, 200, 200, 200, 200, 200}},
	{name: "at the same time, large", over: again, args: []string{"--parallel", "--output", "/dev/null", "BASE/content?[1-8]"}, check: func(string) bool { return true }, answers: []int{200, 200, 200, 200, 200, 200, 200, 200}},
	{name: "redirect", over: again, args: []string{"--location", "BASE/moved"}, told: "200 V 1 9", out: "some text", answers: []int{302, 200}},
	{name: "redirect of an upload", over: again, args: []string{"--location", "--data", "name=value", "BASE/moved307"}, out: `POST PREFIXecho, "name=value", length 10`, answers: []int{307, 200}},
	{name: "user", over: since11, args: []string{"--user", "a:b", "BASE/echo"}, out: `GET PREFIXecho, "", length 0, Authorization [Basic YTpi]`},
	{name: "cookies", over: since11, args: []string{"--cookie", "a=b; c=d", "BASE/echo"}, out: `GET PREFIXecho, "", length 0, Cookie [a=b; c=d]`},
	{name: "cookies that are kept", over: again, args: []string{"--cookie", "", "BASE/cookie", "BASE/echo"}, out: `setGET PREFIXecho, "", length 0, Cookie [set=yes]`, answers: []int{200, 200}},
	{name: "odd path", over: every, args: []string{"--path-as-is", "BASE/a/../%41%2f;x=1//echo?q=%20&&r"}, out: `GET PREFIXa/../%41%2f;x=1//echo?q=%20&&r, "", length 0`},
	{name: "long field", over: every, args: []string{"--header", "Cookie: " + strings.Repeat("x", 6000), "BASE/echo"}, out: `GET PREFIXecho, "", length 0, Cookie [` + strings.Repeat("x", 6000) + "]"},
	{name: "too long a field", over: only1, args: []string{"--header", "X-Long: " + strings.Repeat("x", 60000), "--output", "/dev/null", "BASE/echo"}, told: "431 V 1", unlogged: true},

	{name: "no content", over: every, args: []string{"BASE/204"}, told: "204 V 1", answers: []int{204}},
	{name: "not found", over: every, args: []string{"BASE/404"}, told: "404 V 1 3", out: "404", answers: []int{404}},
	{name: "error", over: every, args: []string{"--fail", "BASE/500"}, exit: 22, answers: []int{500}},
	{name: "answer that breaks off", over: only1, args: []string{"--output", "/dev/null", "BASE/broken"}, exit: 18},
	{name: "answer that breaks off", over: only2, args: []string{"--output", "/dev/null", "BASE/broken"}, exit: 92},
	{name: "client that leaves", over: every, args: []string{"--max-time", "0.5", "--output", "/dev/null", "BASE/endless"}, exit: 28},
	{name: "client that leaves before the answer", over: every, args: []string{"--max-time", "0.5", "BASE/hangs"}, exit: 28, answers: []int{499}},
}

// answersCurl is the backend.
func answersCurl(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	what := path.Base(r.URL.Path)
	switch what {
	case "content":
		w.Header().Set("Etag", `"content"`)
		http.ServeContent(w, r, "content.txt", time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), strings.NewReader(curlContent))
	case "text":
		_, _ = io.WriteString(w, "some text")
	case "chunks", "packed":
		w.Header().Set("Content-Type", "text/plain")
		_ = control.Flush()
		_, _ = io.WriteString(w, curlContent)
	case "slow":
		for range 10 {
			_, _ = io.WriteString(w, "part ")
			_ = control.Flush()
			takes(r.Context(), 20*time.Millisecond)
		}
	case "echo":
		_, _ = io.WriteString(w, describe(r))
	case "mirror":
		_ = control.EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	case "form":
		file, _, err := r.FormFile("file")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "a=%s, file with %s", r.FormValue("a"), describeBytes(file))
	case "gzip":
		w.Header().Set("Vary", "Accept-Encoding")
		w.Header().Set("Content-Type", "text/plain")
		text := curlContent
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			w.Header().Set("Content-Encoding", "gzip")
			text = inGzip(text)
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		_, _ = io.WriteString(w, text)
	case "trailers":
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "some text")
		_ = control.Flush()
		w.Header().Set("X-Sum", "9")
	case "hints":
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, "some text")
	case "moved":
		http.Redirect(w, r, "text", http.StatusFound)
	case "moved307":
		http.Redirect(w, r, "echo", http.StatusTemporaryRedirect)
	case "cookie":
		http.SetCookie(w, &http.Cookie{Name: "set", Value: "yes"})
		_, _ = io.WriteString(w, "set")
	case "broken":
		w.Header().Set("Content-Length", "2000000")
		_, _ = io.WriteString(w, curlContent)
		panic(http.ErrAbortHandler)
	case "endless":
		uploadBackends["streams"](w, r)
	case "hangs":
		<-r.Context().Done()
	default:
		status, _ := strconv.Atoi(what)
		w.WriteHeader(status)
		if status != http.StatusNoContent {
			_, _ = io.WriteString(w, what)
		}
	}
}

// describe tells what came of a request.
func describe(r *http.Request) string {
	text := fmt.Sprintf("%s %s, %s, length %d", r.Method, r.RequestURI, describeBytes(r.Body), r.ContentLength)
	for _, name := range []string{"Authorization", "Content-Range", "Cookie"} {
		if values := r.Header[name]; values != nil {
			text += fmt.Sprintf(", %s %v", name, values)
		}
	}
	return text
}

// describeBytes tells how many bytes come, and whether they are those of a file that the tests send.
func describeBytes(from io.Reader) string {
	got, err := io.ReadAll(from)
	switch {
	case err != nil:
		return fmt.Sprintf("%d bytes, then %v", len(got), err)
	case len(got) < 100:
		return strconv.Quote(string(got))
	case string(got) != filled(len(got)):
		return fmt.Sprintf("%d wrong bytes", len(got))
	}
	return fmt.Sprintf("%d right bytes", len(got))
}
