//go:build trust

package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// loadRequests is how many requests a case makes; fewer where vegeta and wrk do not get that far in a second. Each takes this body, if it is a POST, and gets that answer.
const loadRequests = 300

var loadBody, loadAnswer = filled(1000), filled(2000)

// loadRun is one run of a client that makes many requests.
type loadRun struct {
	t       *testing.T
	program string
	url     string
	at      string // the protocol: h1, tls, h2 or h2c
	clients int    // at the same time
	post    bool
	dir     string
	body    string // a file
}

// loadClients are the clients with what they speak. Each returns the number of requests that it counts, and what is wrong.
var loadClients = []struct {
	name, over string
	spare      bool // it leaves when requests are on their way
	run        func(r loadRun) (requests int, wrong string)
}{
	{"wrk", "h1 tls", true, runWrk},
	{"h2load", "h1 tls h2 h2c", false, runH2load},
	{"vegeta", "h1 tls h2 h2c", false, runVegeta},
}

// loads runs the clients, each over all that it speaks, with 1 to 32 requests at the same time.
func loads(seamless bool) func(t *testing.T) (ours, stock results) {
	return func(t *testing.T) (ours, stock results) {
		programs := map[string]string{}
		for _, c := range loadClients {
			programs[c.name] = program(t, c.name)
		}
		body := inFile(t, "body", loadBody)
		return both(t, "", seamless, answersLoad, func(t *testing.T, s *subject) results {
			all := results{}
			for _, c := range loadClients {
				for over := range strings.FieldsSeq(c.over) {
					for _, clients := range []int{1, 8, 32} {
						for _, method := range []string{http.MethodGet, http.MethodPost} {
							path := fmt.Sprintf("/%s-%s-%d-%s/", c.name, over, clients, method)
							r := loadRun{t, programs[c.name], s.at(over == "tls" || over == "h2", path+"load"), over, clients, method == http.MethodPost, t.TempDir(), body}
							n, wrong := c.run(r)
							spare := 0
							if c.spare {
								spare = clients
							}
							if disagree := s.agree(path, n, spare, func(status int) bool { return status == http.StatusOK }); disagree != "" {
								wrong += "; " + disagree
							}
							if n == 0 {
								wrong += "; no request is answered"
							}
							all[fmt.Sprintf("%s, %s over %s, %d at a time", c.name, method, over, clients)] = strings.TrimPrefix(wrong, "; ")
						}
					}
				}
			}
			if seamless {
				s.expectExpress(t)
			}
			return all
		})
	}
}

// answersLoad is the backend.
func answersLoad(w http.ResponseWriter, r *http.Request) {
	if got := describeBytes(r.Body); r.Method == http.MethodPost && got != "1000 right bytes" {
		http.Error(w, got, http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprint(w, loadAnswer)
}

// wrkScript has wrk look at each answer, and stop after a number of them.
const wrkScript = `
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init() answers, wrong = 0, 0 end
function response(status, headers, body)
	answers = answers + 1
	if status ~= 200 or body ~= %q then wrong = wrong + 1 end
	if answers == %d then wrk.thread:stop() end
end
function done(summary)
	for _, thread in ipairs(threads) do
		io.write("answers ", thread:get("answers"), " wrong ", thread:get("wrong"), " errors ",
			summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status + summary.errors.timeout, "\n")
	end
end
`

var wrkCounts = regexp.MustCompile(`(?m)^answers (\d+) wrong (\d+) errors (\d+)$`)

func runWrk(r loadRun) (int, string) {
	r.t.Helper()
	script := fmt.Sprintf(wrkScript, loadAnswer, loadRequests)
	if r.post {
		script += fmt.Sprintf("wrk.method, wrk.body = 'POST', %q\n", loadBody)
	}
	ended := runProgram(r.t, time.Minute, "", r.program, "-t1", "-c"+strconv.Itoa(r.clients), "-d1s", "--timeout", "30s", "-s", inFile(r.t, "wrk.lua", script), r.url)
	m := wrkCounts.FindStringSubmatch(ended.stdout)
	if m == nil {
		return 0, "wrk: " + brief(ended.stdout+ended.stderr)
	}
	n, _ := strconv.Atoi(m[1])
	if m[2] != "0" || m[3] != "0" {
		return n, m[0]
	}
	return n, ""
}

var (
	h2loadRequests = regexp.MustCompile(`requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, 0 failed, 0 errored, 0 timeout`)
	h2loadBytes    = regexp.MustCompile(`\((\d+)\) data`)
	h2loadProtocol = regexp.MustCompile(`Application protocol: (\S+)`)
)

func runH2load(r loadRun) (int, string) {
	r.t.Helper()
	args := []string{"-t1", "-n" + strconv.Itoa(loadRequests)}
	switch r.at {
	case "h1", "tls":
		args = append(args, "--h1", "-c"+strconv.Itoa(r.clients))
	default:
		args = append(args, "-c"+strconv.Itoa(max(r.clients/4, 1)), "-m"+strconv.Itoa(min(r.clients, 4)))
	}
	if r.post {
		args = append(args, "-d"+r.body)
	}
	ended := runProgram(r.t, time.Minute, "", r.program, append(args, r.url)...)
	requests, data, protocol := h2loadRequests.FindStringSubmatch(ended.stdout), h2loadBytes.FindStringSubmatch(ended.stdout), h2loadProtocol.FindStringSubmatch(ended.stdout)
	if requests == nil || data == nil || protocol == nil {
		return 0, "h2load: " + brief(ended.stdout+ended.stderr)
	}
	n, _ := strconv.Atoi(requests[2])
	if n != loadRequests {
		return n, fmt.Sprintf("%d of %d requests succeed", n, loadRequests)
	}
	if bytes, _ := strconv.Atoi(data[1]); bytes != n*len(loadAnswer) {
		return n, fmt.Sprintf("h2load got %d bytes with %d answers", bytes, n)
	}
	if want := map[string]string{"h1": "http/1.1", "tls": "http/1.1", "h2": "h2", "h2c": "h2c"}[r.at]; protocol[1] != want {
		return n, fmt.Sprintf("h2load speaks %s, want %s", protocol[1], want)
	}
	return n, ""
}

func runVegeta(r loadRun) (n int, wrong string) {
	r.t.Helper()
	hits, clients := filepath.Join(r.dir, "hits"), strconv.Itoa(r.clients)
	args := []string{"attack", "-rate", strconv.Itoa(loadRequests) + "/1s", "-duration", "1s", "-workers", clients, "-max-workers", clients, "-timeout", "30s", "-insecure",
		"-output", hits, "-http2=" + strconv.FormatBool(r.at == "h2"), "-h2c=" + strconv.FormatBool(r.at == "h2c")}
	target := "GET " + r.url + "\n"
	if r.post {
		args, target = append(args, "-body", r.body), "POST "+r.url+"\n"
	}
	if ended := runProgram(r.t, time.Minute, target, r.program, args...); ended.status != 0 {
		return 0, "vegeta: " + brief(ended.stderr)
	}
	told := runProgram(r.t, time.Minute, "", r.program, "encode", "-to", "json", hits)
	lines := bufio.NewScanner(strings.NewReader(told.stdout))
	for lines.Scan() {
		var hit struct {
			Code  int
			Error string
			Body  []byte
		}
		if err := json.Unmarshal(lines.Bytes(), &hit); err != nil {
			return n, "vegeta: " + brief(lines.Text())
		}
		if n++; hit.Code != http.StatusOK || hit.Error != "" || string(hit.Body) != loadAnswer {
			wrong = fmt.Sprintf("status %d, %d bytes, %s", hit.Code, len(hit.Body), hit.Error)
		}
	}
	return n, wrong
}
